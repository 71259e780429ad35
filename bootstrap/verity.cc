#include "bootstrap/verity.h"

#include <fcntl.h>
#include <linux/dm-ioctl.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstring>
#include <format>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "base/fd.h"

namespace bootstrap {
namespace {

constexpr size_t kSector = 512;  // of the device mapper's tables

/// A request to the device mapper, with room behind it for a table or the answer.
struct Request {
  dm_ioctl head = {};
  std::array<char, (16 << 10) - sizeof(dm_ioctl)> data = {};

  explicit Request(uint32_t flags) {
    head.version[0] = DM_VERSION_MAJOR;
    head.data_size = sizeof *this;
    head.data_start = offsetof(Request, data);
    head.flags = flags;
  }
  [[nodiscard]] bool send(const base::Fd& control, unsigned long what) {
    return ::ioctl(control.get(), what, this) == 0;
  }
  /// The only target, and its text; nullopt where there are none or several.
  [[nodiscard]] std::optional<std::pair<std::string, std::string>> target() const {
    dm_target_spec target = {};
    if (head.target_count != 1) return std::nullopt;
    std::memcpy(&target, data.data(), sizeof target);
    const char* text = data.data() + sizeof target;
    return std::pair(std::string(target.target_type),
                     std::string(text, ::strnlen(text, data.size() - sizeof target)));
  }
};

base::Fd open_control() { return base::open("/dev/mapper/control", O_RDWR); }

/// The status of a device's table, or with DM_STATUS_TABLE_FLAG its parameters. nullopt when it is none of
/// verity's.
std::optional<std::string> ask(const base::Fd& control, dev_t device, uint32_t flags) {
  Request request(flags);
  request.head.dev = device;  // glibc's encoding is the kernel's as far as 32 bits go
  if (!request.send(control, DM_TABLE_STATUS)) {
    if (errno == ENXIO) return std::nullopt;  // not the device mapper's
    throw base::sys_error("cannot ask the device mapper");
  }
  auto target = request.target();
  if (!target || target->first != "verity") return std::nullopt;
  return target->second;
}

template <class Number>
Number number_at(std::string_view bytes, size_t offset) {
  Number number = 0;
  for (size_t i = 0; i < sizeof number; ++i)
    number |=
        static_cast<Number>(static_cast<Number>(static_cast<unsigned char>(bytes[offset + i])) << (8 * i));
  return number;
}

std::string hex(std::string_view bytes) {
  std::string digits;
  for (char byte : bytes) digits += std::format("{:02x}", static_cast<unsigned char>(byte));
  return digits;
}

bool is_block_size(uint32_t size) { return size >= kSector && size <= 4096 && (size & (size - 1)) == 0; }

void copy_name(char* to, size_t room, const std::string& name) {
  if (name.size() >= room) throw base::error("{} is too long for the device mapper", name);
  std::memcpy(to, name.c_str(), name.size() + 1);
}

}  // namespace

VeritySuperblock parse_verity_superblock(std::string_view bytes) {
  constexpr size_t kUuid = 16, kAlgorithm = 32, kDataBlock = 64, kHashBlock = 68, kDataBlocks = 72,
                   kSaltSize = 80, kSalt = 88, kMostSalt = 256;
  using namespace std::string_view_literals;
  if (bytes.size() != kVeritySuperblockSize || !bytes.starts_with("verity\0\0"sv))
    throw base::error("there is no hash tree of dm-verity where the command line says");
  if (number_at<uint32_t>(bytes, 8) != 1 || number_at<uint32_t>(bytes, 12) != 1)
    throw base::error("the hash tree of dm-verity has a format of another version than 1");
  VeritySuperblock superblock;
  superblock.uuid = hex(bytes.substr(kUuid, 16));
  std::string_view algorithm = bytes.substr(kAlgorithm, 32);
  superblock.algorithm = algorithm.substr(0, algorithm.find('\0'));
  superblock.data_block = number_at<uint32_t>(bytes, kDataBlock);
  superblock.hash_block = number_at<uint32_t>(bytes, kHashBlock);
  superblock.data_blocks = number_at<uint64_t>(bytes, kDataBlocks);
  auto salt_size = number_at<uint16_t>(bytes, kSaltSize);
  // It becomes a word of a table.
  if (superblock.algorithm.empty() ||
      superblock.algorithm.find_first_not_of("abcdefghijklmnopqrstuvwxyz0123456789-") != std::string::npos ||
      !is_block_size(superblock.data_block) || !is_block_size(superblock.hash_block) || salt_size > kMostSalt)
    throw base::error("the superblock of dm-verity is damaged");
  superblock.salt = hex(bytes.substr(kSalt, salt_size));
  return superblock;
}

std::string verity_table(const VeritySuperblock& superblock, const std::string& device,
                         const std::string& root_hash, uint64_t hash_offset) {
  if (superblock.data_blocks == 0 || superblock.data_blocks > hash_offset / superblock.data_block)
    throw base::error("the superblock of dm-verity is damaged: {} blocks of data do not fit before it",
                      superblock.data_blocks);
  // The tree begins with the next block.
  uint64_t tree = (hash_offset + kVeritySuperblockSize + superblock.hash_block - 1) / superblock.hash_block;
  return std::format("1 {} {} {} {} {} {} {} {} {} 1 restart_on_corruption", device, device,
                     superblock.data_block, superblock.hash_block, superblock.data_blocks, tree,
                     superblock.algorithm, root_hash, superblock.salt.empty() ? "-" : superblock.salt);
}

std::string open_verity(const std::string& device, const std::string& name, const std::string& root_hash,
                        uint64_t hash_offset) {
  std::string bytes(kVeritySuperblockSize, '\0');
  base::Fd file = base::open(device, O_RDONLY);
  if (::pread(file.get(), bytes.data(), bytes.size(), static_cast<off_t>(hash_offset)) !=
      static_cast<ssize_t>(bytes.size()))
    throw base::sys_error("cannot read {} at {}", device, hash_offset);
  const VeritySuperblock superblock = parse_verity_superblock(bytes);
  const std::string table = verity_table(superblock, device, root_hash, hash_offset);

  base::Fd control = open_control();
  Request create(DM_READONLY_FLAG);
  copy_name(create.head.name, sizeof create.head.name, name);
  // The name that libcryptsetup's tools know it by.
  copy_name(create.head.uuid, sizeof create.head.uuid,
            std::format("CRYPT-VERITY-{}-{}", superblock.uuid, name));
  if (!create.send(control, DM_DEV_CREATE)) throw base::sys_error("cannot make the device {}", name);

  Request load(DM_READONLY_FLAG);
  copy_name(load.head.name, sizeof load.head.name, name);
  dm_target_spec target = {};
  target.length = superblock.data_blocks * (superblock.data_block / kSector);
  copy_name(target.target_type, sizeof target.target_type, "verity");
  load.head.target_count = 1;
  std::memcpy(load.data.data(), &target, sizeof target);
  copy_name(load.data.data() + sizeof target, load.data.size() - sizeof target, table);
  if (!load.send(control, DM_TABLE_LOAD))
    throw base::sys_error("the kernel does not take {} for a root", device);

  Request resume(DM_READONLY_FLAG);
  copy_name(resume.head.name, sizeof resume.head.name, name);
  if (!resume.send(control, DM_DEV_SUSPEND)) throw base::sys_error("cannot start the device {}", name);
  std::string path = std::format("/dev/dm-{}", minor(resume.head.dev));
  // devtmpfs has the device; the other name is udev's work, later.
  if (::symlink(("../" + path.substr(sizeof "/dev")).c_str(), ("/dev/mapper/" + name).c_str()) != 0 &&
      errno != EEXIST)
    throw base::sys_error("cannot name /dev/mapper/{}", name);
  return path;
}

std::string root_hash_in(std::string_view table) {
  std::istringstream words{std::string(table)};
  std::string word;
  constexpr int kRootHash = 9;
  for (int i = 0; i < kRootHash; ++i) words >> word;
  return words ? word : "";
}

std::optional<Verity> verity_of(const std::string& path) {
  struct stat about = {};
  if (::stat(path.c_str(), &about) != 0) throw base::sys_error("cannot look at {}", path);
  // A kernel without the device mapper has no such device, whatever stands in /dev.
  base::Fd control(::open("/dev/mapper/control", O_RDWR | O_CLOEXEC));
  if (!control && (errno == ENOENT || errno == ENODEV || errno == ENXIO)) return std::nullopt;
  if (!control) throw base::sys_error("cannot open /dev/mapper/control");
  auto status = ask(control, about.st_dev, 0);
  auto table = ask(control, about.st_dev, DM_STATUS_TABLE_FLAG);
  if (!status || !table) return std::nullopt;
  return Verity{.verified = *status == "V", .root_hash = root_hash_in(*table)};
}

}  // namespace bootstrap
