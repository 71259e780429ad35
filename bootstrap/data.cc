#include "bootstrap/data.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstdio>
#include <format>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "bootstrap/console.h"

namespace bootstrap {
namespace {

// e2fsck of a clean file system looks at the superblock only; of one that lost its power it replays the
// journal. A full check of a large disk that -p begins by itself may take long, and is not cut off for that.
constexpr auto kCheckTimeout = std::chrono::hours(1);
constexpr int kErrorsLeft = 4;  // e2fsck(8): 1 and 2 are corrected

constexpr size_t kMachineIdDigits = 32;

bool is_machine_id(std::string_view text) {
  return text.size() == kMachineIdDigits &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos &&
         text.find_first_not_of('0') != std::string_view::npos;
}

void check(base::Runner& runner, const std::string& device) {
  base::Result result = runner.run_any({.argv = {"e2fsck", "-p", device}, .timeout = kCheckTimeout});
  if (result.status >= kErrorsLeft)
    throw base::error("the ext4 on {} has errors that e2fsck -p cannot correct (exit {})", device,
                      result.status)
        .hint("boot the node from the network and repair it by hand: e2fsck " + device);
  if (result.status != 0) say("e2fsck has corrected the ext4 on {}", device);
}

}  // namespace

std::optional<std::string> file_system_of(const std::string& device) {
  std::array<std::byte, 2048> head = {};
  base::Fd file = base::open(device, O_RDONLY);
  if (base::read_full(file.get(), head) != head.size()) return std::nullopt;
  if (head[1080] == std::byte{0x53} && head[1081] == std::byte{0xef}) return "ext4";
  if (head[0] == std::byte{'X'} && head[1] == std::byte{'F'} && head[2] == std::byte{'S'} &&
      head[3] == std::byte{'B'})
    return "xfs";
  return std::nullopt;
}

void mount_data(base::Runner& runner, const std::string& device, const std::string& target) {
  auto type = file_system_of(device);
  if (!type)
    throw base::error("{}, the node's data partition, has neither an ext4 nor an xfs", device)
        .hint("install the node anew over the network");
  if (*type == "ext4") check(runner, device);
  base::make_directories(target);
  base::Mount::make(device, target, *type, MS_NOATIME).release();
}

std::string machine_id(const std::string& state_dir) {
  const std::string path = state_dir + "/machine-id";
  auto text = base::read_file_if_exists(path);
  if (text && text->ends_with('\n')) text->pop_back();
  if (text && is_machine_id(*text)) return *text;
  if (text) say("{} is no machine-id, and is made anew", path);
  std::string id =
      base::read_file("/proc/sys/kernel/random/uuid");  // of version 4, as machine-id(5) wants it
  std::erase_if(id, [](char c) { return c == '-' || c == '\n'; });
  base::write_file_atomically(path, id + "\n", 0444);
  return id;
}

void ensure_host_key(base::Runner& runner, const std::string& state_dir) {
  const std::string directory = state_dir + "/ssh", key = std::format("{}/{}", directory, kHostKey);
  if (base::exists(key)) return;
  base::make_directories(directory, 0700);
  const std::string fresh = directory + "/.new";
  for (const char* part : {"", ".pub"}) ::unlink((fresh + part).c_str());
  runner.run({.argv = {"ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", fresh}});
  // The private half last: it says that both are there.
  for (const char* part : {".pub", ""}) {
    base::fsync_path(fresh + part);
    if (std::rename((fresh + part).c_str(), (key + part).c_str()) != 0)
      throw base::sys_error("cannot name {}{}", key, part);
    base::fsync_path(directory);
  }
}

}  // namespace bootstrap
