#include "image/plan.h"

#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "image/hardware.h"
#include "image/lock.h"

namespace image {
namespace {

namespace fs = std::filesystem;

/// Grows when the same definition and packages shall give another image than before.
constexpr std::string_view kBuildFormat = "7";
/// What of the builder's decides bytes of an image.
const std::vector<std::string> kTools = {"erofs-utils", "mtools",      "e2fsprogs",   "xfsprogs",
                                         "libfdisk1",   "grub-common", "grub-pc-bin", "grub-efi-amd64-bin",
                                         "ipxe",        "xz-utils"};

/// The newest own package of that name, if it is one of ours.
std::optional<std::string> own_package(const std::vector<std::string>& directories, const std::string& name) {
  for (const std::string& directory : directories) {
    std::error_code missing;
    std::optional<fs::path> newest;
    for (const auto& entry : fs::directory_iterator(directory, missing)) {
      std::string file = entry.path().filename();
      if (!file.starts_with(name + "_") || !file.ends_with(".deb")) continue;
      if (!newest || fs::last_write_time(entry) > fs::last_write_time(*newest)) newest = entry.path();
    }
    if (newest) return fs::absolute(*newest).string();
  }
  return std::nullopt;
}

std::vector<Package> locked_packages(rootfs::Apt& apt, const std::vector<Package>& locked) {
  // What is in the cache needs no list to be found by.
  if (!std::ranges::all_of(locked,
                           [&](const auto& package) { return base::exists(apt.package_file(package)); }))
    apt.update();
  return locked;
}

std::vector<Package> resolved_packages(base::Context& context, rootfs::Apt& apt,
                                       const std::vector<base::Word>& wanted,
                                       const std::set<std::string>& own_names) {
  apt.update();
  base::Phase phase(context.progress, "plan");
  std::vector<Package> packages = apt.resolve(wanted, "");
  std::erase_if(packages, [&](const auto& package) { return own_names.contains(package.name); });
  return packages;
}

/// A driver more in them is another image, too.
std::string hardware_tables() {
  std::string text;
  for (std::string_view name : initrd_modules()) text += " " + std::string(name);
  for (std::string_view name : node_modules()) text += " " + std::string(name);
  for (const Family& family : hardware_families())
    for (std::string_view name : family.modules) text += " " + std::string(name);
  return text;
}

std::map<std::string, std::string> inputs_of(base::Context& context, const Definition& definition,
                                             const Plan& plan, Backend backend) {
  std::string list, own;
  for (const Package& package : plan.packages)
    list += std::format("{}={} {}\n", package.name, package.version, package.architecture);
  for (const std::string& file : plan.own_packages) own += base::sha256_file_hex(file) + "\n";
  std::vector<std::string> ask = {"dpkg-query", "--show"};
  ask.insert(ask.end(), kTools.begin(), kTools.end());
  std::string tools = context.runner.run_any({.argv = ask}).out;
  return {{"definition", definition.hash},
          {"packages", base::sha256_hex(list)},
          {"own-packages", base::sha256_hex(own)},
          {"tools", base::sha256_hex(tools + (backend == Backend::kGuestfs ? "guestfs" : ""))},
          {"format", base::sha256_hex(std::string(kBuildFormat) + hardware_tables())}};
}

}  // namespace

rootfs::Origin origin_of(const Definition& definition, bool offline) {
  rootfs::Origin origin = {
      .name = definition.name, .suite = definition.suite, .mirror = definition.mirror, .offline = offline};
  for (const base::Word& word : definition.packages) {
    size_t slash = word.text.find('/');
    if (slash == std::string::npos) continue;
    std::string suite = word.text.substr(slash + 1);
    if (suite != definition.suite) origin.more_suites[suite].push_back(word.text.substr(0, slash));
  }
  return origin;
}

Plan make_plan(base::Context& context, rootfs::Apt& apt, const Definition& definition,
               const BuildOptions& options) {
  Plan plan;
  std::vector<base::Word> wanted = rootfs::variant_packages("essential");
  std::set<std::string> own_names;
  wanted.push_back({.text = definition.kernel.package});
  for (const base::Word& word : definition.packages) {
    auto own = own_package(options.package_dirs, word.text);
    if (own) {
      plan.own_packages.push_back(*own);
      own_names.insert(word.text);
    }
    // The suite is in apt's preferences.
    wanted.push_back({.text = own.value_or(word.text.substr(0, word.text.find('/'))), .place = word.place});
  }
  std::string lock = lock_path(definition.file);
  auto locked = options.update_lock ? std::nullopt : read_lock(lock, definition.name);
  plan.packages = locked ? locked_packages(apt, *locked) : resolved_packages(context, apt, wanted, own_names);
  if (options.update_lock) write_lock(lock, definition.name, plan.packages);
  plan.inputs = inputs_of(context, definition, plan, options.backend);
  return plan;
}

std::optional<Manifest> image_there(base::Context& context, const BuildOptions& options,
                                    const base::Keys& keys) {
  if (!base::exists(options.out + "/" + std::string(kManifestFile))) return std::nullopt;
  try {
    return read_image(options.out, keys);
  } catch (const base::Error& error) {
    context.progress.note("what is in " + options.out + " is made anew: " + error.message());
    return std::nullopt;
  }
}

bool is_current(const Manifest& there, const Definition& definition, const Plan& plan,
                const BuildOptions& options) {
  if (options.rebuild || there.name != definition.name || there.inputs != plan.inputs ||
      there.version != options.version.value_or(there.version))
    return false;
  return std::ranges::all_of(there.parts, [&](const Part& part) {
    struct stat status;
    return ::stat((options.out + "/" + part.name).c_str(), &status) == 0 &&
           static_cast<uint64_t>(status.st_size) == part.bytes;
  });
}

std::string next_version(const std::optional<Manifest>& there, const Definition& definition, const Plan& plan,
                         const BuildOptions& options, int64_t clock) {
  if (options.version) return *options.version;
  auto day = std::chrono::floor<std::chrono::days>(std::chrono::sys_seconds(std::chrono::seconds(clock)));
  auto version = std::stoull(std::format("{:%Y%m%d}01", day));
  if (there && there->name == definition.name) {
    if (there->inputs == plan.inputs) return there->version;  // with another one its bytes would be others
    version = std::max(version, std::stoull(there->version) + 1);
  }
  return std::to_string(version);
}

}  // namespace image
