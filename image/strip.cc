#include "image/strip.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/fd.h"
#include "rootfs/strip.h"

namespace image {
namespace {

namespace fs = std::filesystem;

/// An image is never changed by a package manager: what it was made of is in its SBOM. initramfs-tools made
/// an initrd that nobody boots.
const std::vector<std::string> kPackageManager = {
    "/boot/*-*",
    "/initrd.img*",
    "/vmlinuz*",
    "/etc/apt",
    "/etc/dpkg",
    "/etc/initramfs-tools",
    "/etc/cron.daily/apt*",
    "/etc/cron.daily/dpkg",
    "/etc/kernel",
    "/etc/logrotate.d/apt",
    "/etc/logrotate.d/dpkg",
    "/usr/bin/apt*",
    "/usr/bin/deb*",
    "/usr/bin/dpkg*",
    "/usr/bin/sqv",
    "/usr/lib/apt",
    "/usr/lib/dpkg",
    "/usr/lib/drover",  // is in the initrd
    "/usr/lib/initramfs-tools",
    "/usr/lib/klibc*",
    "/usr/lib/systemd/system/apt-daily*",
    "/usr/lib/systemd/system/dpkg-db-backup*",
    "/etc/systemd/system/timers.target.wants/apt-daily*",
    "/etc/systemd/system/timers.target.wants/dpkg-db-backup*",
    "/usr/lib/x86_64-linux-gnu/libapt-*",
    "/usr/sbin/dpkg*",
    "/usr/sbin/mkinitramfs",
    "/usr/sbin/update-initramfs",
    "/usr/share/debconf",
    "/usr/share/dpkg",
    "/usr/share/initramfs-tools",
    "/usr/share/keyrings",
    "/usr/share/perl5/Deb*",
    "/usr/share/perl5/Dpkg*",
    "/var/cache/*",
    "/var/lib/apt",
    "/var/lib/dpkg",
    "/var/lib/initramfs-tools",
    "/var/lib/ucf",
};

bool matches(const std::vector<std::string>& patterns, const std::string& path, bool directory = false) {
  return std::ranges::any_of(patterns, [&](const std::string& pattern) {
    return rootfs::matches_pattern(pattern, path, directory);
  });
}

constexpr std::string_view kFirmware = "/usr/lib/firmware/";

/// The tree while rules take from it. A directory that holds what is kept stays, with nothing else in it.
class Stripper {
 public:
  Stripper(std::string root, const std::vector<base::Word>& keep) : root_(std::move(root)) {
    for (const base::Word& pattern : keep) keep_.push_back(pattern.text);
    if (keep_.empty()) return;
    visit([&](const std::string& path, bool) {
      // With a directory, all that is in it.
      if (matches(keep_, path) || kept_.contains(fs::path(path).parent_path())) kept_.insert(path);
    });
  }

  template <class Condition>
  void rule(const std::string& name, Condition&& condition) {
    std::vector<std::string> found;
    visit([&](const std::string& path, bool directory) {
      if (condition(path, directory)) found.push_back(path);
    });
    for (const std::string& path : found)
      if (base::exists(root_ + path)) remove(path, removed_[name]);
  }
  void patterns(const std::string& name, const std::vector<std::string>& those) {
    rule(name, [&](const std::string& path, bool directory) { return matches(those, path, directory); });
  }

  [[nodiscard]] std::map<std::string, Removed> removed() const {
    std::map<std::string, Removed> those;
    for (const auto& [name, count] : removed_)
      if (count.files > 0) those[name] = count;
    return those;
  }

 private:
  template <class Visit>
  void visit(Visit&& each) const {
    for (const auto& entry : fs::recursive_directory_iterator(root_))
      each(entry.path().string().substr(root_.size()), !entry.is_symlink() && entry.is_directory());
  }

  void remove(const std::string& path, Removed& removed) {
    if (kept_.contains(path) || rootfs::must_stay(path)) return;
    std::string file = root_ + path;
    struct stat status;
    if (::lstat(file.c_str(), &status) != 0) throw base::sys_error("cannot look at {}", path);
    if (S_ISDIR(status.st_mode)) {
      std::vector<std::string> inside;
      for (const auto& entry : fs::directory_iterator(file))
        inside.push_back(path + "/" + entry.path().filename().string());
      for (const std::string& one : inside) remove(one, removed);
      if (!fs::is_empty(file)) return;
    } else {
      removed.files++;
      if (status.st_nlink == 1) removed.bytes += static_cast<uint64_t>(status.st_size);
    }
    fs::remove(file);
  }

  std::string root_;
  std::vector<std::string> keep_;
  std::set<std::string> kept_;
  std::map<std::string, Removed> removed_;
};

}  // namespace

std::set<std::string> firmware_files(const std::string& root, const std::set<std::string>& firmware) {
  std::set<std::string> files;
  std::vector<std::string> patterns(firmware.begin(), firmware.end());
  std::error_code missing;
  fs::path top = root + std::string(kFirmware);
  for (auto entry = fs::recursive_directory_iterator(top, missing);
       entry != fs::recursive_directory_iterator(); ++entry) {
    if (!entry->is_symlink() && entry->is_directory()) continue;
    std::string name = entry->path().lexically_relative(top);
    for (std::string_view end : {".xz", ".zst"})
      if (name.ends_with(end)) name.resize(name.size() - end.size());
    if (!firmware.contains(name) && !matches(patterns, name)) continue;
    // "/" is the root's own: an absolute link begins there, and no ".." leads above it.
    fs::path file = "/" / entry->path().lexically_relative(root);
    while (files.insert(file).second && fs::is_symlink(root + file.string()))
      file = (file.parent_path() / fs::read_symlink(root + file.string())).lexically_normal();
  }
  return files;
}

std::map<std::string, Removed> strip_root(const std::string& root, const Definition::Strip& strip,
                                          const std::string& kernel_version,
                                          const std::set<std::string>& modules,
                                          const std::set<std::string>& firmware) {
  Stripper stripper(root, strip.keep);
  stripper.patterns("package manager", kPackageManager);
  std::string directory = "/usr/lib/modules/" + kernel_version + "/";
  stripper.rule("modules", [&](const std::string& path, bool is_directory) {
    return !is_directory && path.starts_with(directory + "kernel/") &&
           !modules.contains(path.substr(directory.size()));
  });
  std::set<std::string> files = firmware_files(root, firmware);
  stripper.rule("firmware", [&](const std::string& path, bool is_directory) {
    return !is_directory && path.starts_with(kFirmware) && !files.contains(path);
  });
  // Their places are the ones that templates strip too.
  const rootfs::StripPlaces& places = rootfs::strip_places();
  stripper.patterns("never shared", places.never_shared);
  stripper.patterns("builder's traces", places.builders_traces);
  if (strip.documentation) stripper.patterns("documentation", places.documentation);
  if (strip.locales) stripper.patterns("locales", places.locales);
  if (strip.caches) stripper.patterns("caches", places.caches);
  for (const base::Word& pattern : strip.drop) stripper.patterns("drop " + pattern.text, {pattern.text});
  return stripper.removed();
}

}  // namespace image
