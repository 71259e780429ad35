#include "image/loader.h"

#include <filesystem>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "image/grub_config.h"

namespace image {
namespace {

// What loader_config() and a slot's boot.cfg name, what reads a FAT on a GPT for them, and `normal`, which is
// the script interpreter. `linux16` is for rescue on BIOS, `chain` on UEFI.
const std::vector<std::string> kModules = {"part_gpt", "fat",   "normal", "configfile", "loadenv",
                                           "test",     "echo",  "serial", "sleep",      "terminal",
                                           "boot",     "linux", "reboot", "chain"};

struct Platform {
  std::string name, prefix, file, package;
  std::vector<std::string> modules;
};

const std::vector<Platform> kPlatforms = {
    {.name = "i386-pc",
     .prefix = "(,gpt2)/drover",
     .file = "core.img",
     .package = "grub-pc-bin",
     .modules = {"biosdisk", "linux16"}},
    // Without a device in its prefix it is that of the file that the firmware has started.
    {.name = "x86_64-efi",
     .prefix = "/drover",
     .file = "BOOTX64.EFI",
     .package = "grub-efi-amd64-bin",
     .modules = {}},
};

constexpr std::string_view kGrub = "/usr/lib/grub", kIpxe = "/usr/lib/ipxe";

/// A file out of a package.
std::string shipped(const std::string& path, std::string_view package) {
  auto content = base::read_file_if_exists(path);
  if (!content)
    throw base::error("{} is not there", path).hint(std::format("install the package {}", package));
  return *content;
}

void make_grub(base::Context& context, const Platform& platform, const std::string& directory) {
  std::string modules = std::format("{}/{}", kGrub, platform.name);
  if (!base::exists(modules + "/normal.mod"))
    throw base::error("{} has no modules of GRUB", modules)
        .hint(std::format("install the package {}", platform.package));
  std::vector<std::string> argv = {"grub-mkimage",  "--format", platform.name,
                                   "--directory",   modules,    "--prefix",
                                   platform.prefix, "--output", directory + "/" + platform.file};
  argv.insert(argv.end(), kModules.begin(), kModules.end());
  argv.insert(argv.end(), platform.modules.begin(), platform.modules.end());
  context.runner.run({.argv = argv});
}

}  // namespace

void make_loader(base::Context& context, const std::string& directory) {
  base::Phase phase(context.progress, "loader");
  base::make_directories(directory);
  base::write_file(directory + "/grub.cfg", loader_config());
  base::write_file(directory + "/boot.img",
                   shipped(std::format("{}/i386-pc/boot.img", kGrub), "grub-pc-bin"));
  for (const Platform& platform : kPlatforms) make_grub(context, platform, directory);
  base::write_file(directory + "/ipxe.efi", shipped(std::format("{}/ipxe-amd64.efi", kIpxe), "ipxe"));
  base::write_file(directory + "/ipxe.lkrn", shipped(std::format("{}/ipxe.lkrn", kIpxe), "ipxe"));
}

}  // namespace image
