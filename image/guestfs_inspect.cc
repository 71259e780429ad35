#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <functional>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "image/appliance.h"
#include "image/guestfs.h"

namespace image {
namespace {

constexpr const char* kRootDevice = "/dev/mapper/drover-root";

constexpr std::string_view kTable = "partition table", kBios = "loader for BIOS", kEsp = "ESP",
                           kLoader = "loader and kernels", kSlots = "slot state", kRoot = "root A",
                           kVerity = "root A under verity", kData = "data";
constexpr auto kLooks = std::to_array({kTable, kBios, kEsp, kLoader, kSlots, kRoot, kVerity, kData});

/// What a look has found wrong. Not an Error: that is a look that failed.
struct Problem {
  std::string text, hint;
};

/// `bytes` of a file from `start` on.
std::string sha256_of(const std::string& path, uint64_t start, uint64_t bytes) {
  base::Fd file = base::open(path, O_RDONLY);
  if (::lseek(file.get(), static_cast<off_t>(start), SEEK_SET) < 0)
    throw base::sys_error("cannot read {}", path);
  base::Sha256 sum;
  std::vector<std::byte> piece(1 << 20);
  while (bytes > 0) {
    base::check_interrupt();
    size_t got = base::read_full(file.get(), std::span(piece).first(std::min<uint64_t>(piece.size(), bytes)));
    if (got == 0) throw base::error("{} ends too early", path);
    sum.add(std::span(piece).first(got));
    bytes -= got;
  }
  return sum.hex();
}

class Inspection {
 public:
  Inspection(base::Context& context, std::string disk, const DiskFacts& facts, const std::string& cache_dir)
      : disk_(std::move(disk)),
        facts_(facts),
        expected_(plan_partitions(facts.layout)),
        context_(context),
        appliance_(context, cache_dir, {{.device = kDiskDevice, .path = disk_}}) {}

  std::vector<Verdict> run() {
    look(kTable, [&] { table(); });
    bool known = verdicts_.back().problem.empty();
    look(kBios, [&] { bios(); }, known);
    look(kEsp, [&] { esp(); }, known);
    known = known && verdicts_.back().problem.empty();
    look(kLoader, [&] { loader(); }, known);
    look(kSlots, [&] { slots(); }, known);
    known = verdicts_.front().problem.empty();
    look(kRoot, [&] { root(); }, known);
    look(kVerity, [&] { verity(); }, known);
    look(kData, [&] { data(); }, known);
    return verdicts_;
  }

 private:
  /// Whatever is wrong in one look, the next ones have their turn.
  void look(std::string_view name, const std::function<void()>& body, bool possible = true) {
    base::Phase phase(context_.progress, name);
    Verdict verdict = {.name = std::string(name), .problem = {}, .hint = {}};
    if (!possible) verdict.problem = "not looked at, as another problem is in the way";
    try {
      if (possible) body();
    } catch (const Problem& problem) {
      verdict.problem = problem.text;
      verdict.hint = problem.hint;
    } catch (const base::Error& error) {
      if (error.exit() == base::Exit::kInterrupted) throw;
      verdict.problem = error.message();
      verdict.hint = error.hint();
    }
    verdicts_.push_back(verdict);
    unmount();
  }

  std::string device(std::string_view name) { return partition_device(expected_, name); }

  void mount(const std::string& what) {
    appliance_.mount(what, /*read_only=*/true);
    mounted_ = true;
  }
  void unmount() {
    if (std::exchange(mounted_, false)) appliance_.unmount();
  }

  /// Both copies as libfdisk sees them, and the table as sgdisk and the appliance's kernel do.
  void table() {
    for (const PartitionTable& found : {read_gpt(disk_), appliance_.read_table(kDiskDevice)}) {
      if (found.disk_uuid != expected_.disk_uuid)
        throw Problem(std::format("the disk's GUID is {}, not {}", found.disk_uuid, expected_.disk_uuid),
                      "the disk image belongs to another build");
      for (size_t k = 0; k < expected_.partitions.size(); k++) {
        const Partition& wanted = expected_.partitions[k];
        if (k >= found.partitions.size())
          throw Problem(std::format("partition {} is not there", wanted.name), {});
        if (found.partitions[k] != wanted)
          throw Problem(std::format("partition {} is not {} of {} bytes at byte {}, with its type and GUID",
                                    k + 1, wanted.name, wanted.bytes, wanted.start),
                        {});
      }
      if (found.partitions.size() > expected_.partitions.size())
        throw Problem(std::format("there are {} partitions, not {}", found.partitions.size(),
                                  expected_.partitions.size()),
                      {});
    }
  }

  void bios() {
    BiosLoader wanted = bios_loader(facts_.parts, find_partition(expected_, kNameBios));
    if (appliance_.read(kDiskDevice, 0, wanted.boot_code.size()) != wanted.boot_code)
      throw Problem("the boot code of the MBR is not the loader's", {});
    if (appliance_.read(device(kNameBios), 0, wanted.core.size()) != wanted.core)
      throw Problem(std::format("{} does not hold the loader's core.img", kNameBios), {});
  }

  void esp() {
    file_system(kNameEsp, "vfat");
    std::string serial = esp_serial(facts_.layout).insert(4, "-");
    if (appliance_.uuid(device(kNameEsp)) != serial) throw Problem("its serial number is not " + serial, {});
    mount(device(kNameEsp));
  }

  void file_system(std::string_view partition, const std::string& kind) {
    std::string found = appliance_.file_system(device(partition));
    if (found == kind) return;
    throw Problem(std::format("{} has {}, not {}", partition, found.empty() ? "no file system" : found, kind),
                  {});
  }

  /// Where firmware and GRUB look, every file but the slot state is that of the parts.
  void loader() {
    DiskParts parts = facts_.parts;
    parts.state = state_on_disk_or_new();
    mount(device(kNameEsp));
    for (const EspFile& file : esp_files(parts)) {
      if (file.source.empty()) continue;
      if (!appliance_.exists("/" + file.path)) throw Problem(file.path + " is not there", {});
      if (appliance_.sha256("/" + file.path) != base::sha256_file_hex(file.source))
        throw Problem(
            file.path + " has other bytes than " + std::filesystem::path(file.source).filename().string(),
            {});
    }
  }

  SlotState state_on_disk_or_new() {
    try {
      return state_on_disk();
    } catch (const base::Error&) {  // that is the slot state's own verdict
      return facts_.parts.state;
    }
  }

  SlotState state_on_disk() {
    if (!mounted_) mount(device(kNameEsp));
    std::string sector = appliance_.read_file("/drover/slot-state");
    unmount();
    return parse_slot_state(sector);
  }

  void slots() {
    if (boot(state_on_disk()).slot != Slot::kA) throw Problem("the loader would not start slot A", {});
  }

  void root() {
    uint64_t bytes = std::filesystem::file_size(facts_.parts.root_image);
    uint64_t start = find_partition(expected_, kNameRootA).start;
    if (sha256_of(disk_, start, bytes) != base::sha256_file_hex(facts_.parts.root_image))
      throw Problem("slot A does not begin with the bytes of the root image", {});
  }

  /// The kernel's own view: every block of it is read through dm-verity, and it mounts.
  void verity() {
    bool plain = facts_.root_hash.size() == 64 &&
                 facts_.root_hash.find_first_not_of("0123456789abcdef") == std::string::npos;
    if (!plain) throw Problem("the root hash is not 64 hex digits", {});
    std::string from = device(kNameRootA);
    appliance_.shell(std::format("veritysetup open {0} drover-root {0} {1} --hash-offset={2}", from,
                                 facts_.root_hash, facts_.hash_offset));
    try {
      appliance_.shell(std::format("cat {} >/dev/null", kRootDevice));
    } catch (const base::Error& error) {
      throw Problem("not all of it can be read through dm-verity: " + error.message(), {});
    }
    if (std::string found = appliance_.file_system(kRootDevice); found != "erofs")
      throw Problem("under verity it is not erofs", {});
    mount(kRootDevice);
    if (!appliance_.exists("/sbin/init")) throw Problem("it has no /sbin/init", {});
  }

  void data() {
    file_system(kNameData, facts_.layout.data_file_system);
    if (appliance_.uuid(device(kNameData)) != data_uuid(facts_.layout))
      throw Problem("its UUID is not " + data_uuid(facts_.layout), {});
    mount(device(kNameData));
  }

  std::string disk_;
  const DiskFacts& facts_;
  PartitionTable expected_;
  base::Context& context_;
  Appliance appliance_;
  bool mounted_ = false;
  std::vector<Verdict> verdicts_;
};

}  // namespace

std::span<const std::string_view> disk_looks() { return kLooks; }

std::vector<Verdict> inspect_disk(base::Context& context, const std::string& disk, const DiskFacts& facts,
                                  const std::string& cache_dir) {
  base::Phase phase(context.progress, "inspect");
  return Inspection(context, disk, facts, cache_dir).run();
}

}  // namespace image
