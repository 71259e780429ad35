#include <algorithm>
#include <array>

#include "base/error.h"
#include "image/disk.h"
#include "image/guestfs.h"
#include "image/part_file.h"
#include "image/verify.h"

namespace image {
namespace {

constexpr std::string_view kDisk = "disk.img", kRoot = "root.img", kVmlinuz = "vmlinuz", kInitrd = "initrd",
                           kBootCfg = "boot.cfg";
/// What a disk is made of, and held against.
constexpr auto kMadeOf = std::to_array<std::string_view>(
    {kRoot, kVmlinuz, kInitrd, kBootCfg, "loader/BOOTX64.EFI", "loader/boot.img", "loader/core.img",
     "loader/grub.cfg", "loader/ipxe.efi", "loader/ipxe.lkrn"});

void require_good(const std::vector<Verdict>& parts) {
  for (std::string_view name : kMadeOf) {
    auto verdict = std::ranges::find(parts, name, &Verdict::name);
    if (verdict == parts.end()) throw base::error("the image has no {}", name);
    if (!verdict->good()) throw base::error("{} is not good", name);
  }
}

std::vector<Verdict> look(base::Context& context, const std::string& directory, const Manifest& manifest,
                          const std::string& cache_dir) {
  auto path = [&](std::string_view name) { return std::format("{}/{}", directory, name); };
  DiskFacts facts = {.layout = manifest.layout(),
                     .parts = {.root_image = path(kRoot),
                               .vmlinuz = path(kVmlinuz),
                               .initrd = path(kInitrd),
                               .boot_cfg = path(kBootCfg),
                               .loader_dir = path("loader")},
                     .root_hash = manifest.root.root_hash,
                     .hash_offset = manifest.root.hash_offset()};
  // Libraries open it by its name: what is no regular file is not theirs to open. Its own verdict may be bad:
  // which of the things in it is, is what the look tells.
  base::Fd disk = open_part(directory, kDisk);
  return inspect_disk(context, path(kDisk), facts, cache_dir);
}

}  // namespace

std::vector<Verdict> verify_disk(base::Context& context, const std::string& directory,
                                 const Manifest& manifest, const std::vector<Verdict>& parts,
                                 const std::string& cache_dir) {
  std::vector<Verdict> verdicts;
  if (manifest.find(kDisk) == nullptr) return verdicts;
  try {
    require_good(parts);
    verdicts = look(context, directory, manifest, cache_dir);
  } catch (const base::Error& error) {
    if (error.exit() == base::Exit::kInterrupted) throw;
    for (std::string_view name : disk_looks())
      verdicts.push_back(
          {.name = std::string(name), .problem = "not looked at: " + error.message(), .hint = error.hint()});
  }
  for (Verdict& verdict : verdicts) verdict.name = std::format("{}: {}", kDisk, verdict.name);
  return verdicts;
}

}  // namespace image
