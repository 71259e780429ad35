#include "rootfs/strip.h"

#include <fnmatch.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "base/fd.h"

namespace rootfs {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kBuildersTraces = {
    "/etc/apt/sources.list",
    "/etc/apt/apt.conf.d/99mmdebstrap",
    "/etc/dpkg/dpkg.cfg.d/99mmdebstrap",
    "/etc/apt/preferences.d/drover",
    "/etc/hostname",
    "/etc/resolv.conf",
};

/// Differs from build to build, or from machine to machine.
const std::vector<std::string> kNeverShared = {
    "/dev/*",
    "/proc/*",
    "/run/*",
    "/sys/*",
    "/tmp/*",
    "/tmp/.*",
    "/var/tmp/*",
    "/root/.*_history",
    "/var/log/",  // the files; packages count on their directories
    "/var/lib/apt/lists/*",
    "/var/cache/apt/*",
    "/var/lib/dpkg/*-old",
    "/var/lib/dpkg/lock*",
    "/var/lib/dpkg/triggers/Lock",
    "/var/cache/debconf/*",
    "/var/cache/ldconfig/aux-cache",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/etc/subuid-",
    "/etc/subgid-",
    "/etc/.pwd.lock",
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
    "/var/lib/systemd/random-seed",
    "/var/lib/urandom/random-seed",
    "/etc/ssh/ssh_host_*",
    "/etc/ssl/private/ssl-cert-snakeoil.key",
    "/etc/ssl/certs/ssl-cert-snakeoil.pem",
};

const std::vector<std::string> kDocumentation = {"/usr/share/doc/",       "/usr/share/man/*",
                                                 "/usr/share/info/*",     "/usr/share/lintian/*",
                                                 "/usr/share/doc-base/*", "/usr/share/linda/*"};
const std::vector<std::string> kLocales = {"/usr/share/locale/*", "/usr/share/i18n/locales/*"};
const std::vector<std::string> kCaches = {"/var/cache/man/*", "/var/cache/fontconfig/*", "/var/cache/ucf/*"};

/// Everything in the tree, as "/path" and whether it is a directory; parents first.
template <class Visit>
void walk(const std::string& root, Visit&& visit) {
  struct stat top, status;
  if (::lstat(root.c_str(), &top) != 0) throw base::sys_error("cannot look at {}", root);
  for (auto entry = fs::recursive_directory_iterator(root); entry != fs::recursive_directory_iterator();
       ++entry) {
    if (::lstat(entry->path().c_str(), &status) != 0)
      throw base::sys_error("cannot look at {}", entry->path().string());
    bool directory = S_ISDIR(status.st_mode);
    if (directory && status.st_dev != top.st_dev) entry.disable_recursion_pending();
    if (!visit(entry->path().string().substr(root.size()), directory)) entry.disable_recursion_pending();
  }
}

/// Links in /etc/ssl/certs that led to a certificate that is gone; named by its hash.
void remove_dangling_certificates(const std::string& root) {
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(root + "/etc/ssl/certs", missing))
    if (entry.is_symlink() && fs::read_symlink(entry.path()) == "ssl-cert-snakeoil.pem")
      fs::remove(entry.path());
}

/// Documentation directories that hold nothing any more.
void remove_empty_documentation(const std::string& root) {
  std::vector<std::string> directories;
  std::error_code missing;
  for (auto entry = fs::recursive_directory_iterator(root + "/usr/share/doc", missing);
       entry != fs::recursive_directory_iterator(); ++entry)
    if (!entry->is_symlink() && entry->is_directory()) directories.push_back(entry->path());
  for (auto directory = directories.rbegin(); directory != directories.rend(); ++directory)
    if (fs::is_empty(*directory)) fs::remove(*directory);
}

}  // namespace

const StripPlaces& strip_places() {
  static const StripPlaces places = {.documentation = kDocumentation,
                                     .locales = kLocales,
                                     .caches = kCaches,
                                     .never_shared = kNeverShared,
                                     .builders_traces = kBuildersTraces};
  return places;
}

bool must_stay(const std::string& path) {
  return path == "/usr/share/locale/locale.alias" ||
         ::fnmatch("/usr/share/doc/*/copyright*", path.c_str(), FNM_PATHNAME) == 0;
}

bool matches_pattern(const std::string& pattern, const std::string& path, bool directory) {
  if (!pattern.ends_with('/')) return ::fnmatch(pattern.c_str(), path.c_str(), FNM_PATHNAME) == 0;
  return !directory && path.starts_with(pattern);
}

std::vector<std::string> dpkg_excludes(const Strip& strip) {
  std::vector<std::string> options;
  auto exclude = [&](const std::vector<std::string>& patterns) {
    for (const std::string& pattern : patterns)
      options.push_back("path-exclude=" + pattern + (pattern.ends_with('/') ? "*" : ""));
  };
  if (strip.documentation) exclude(kDocumentation);
  if (strip.locales) exclude(kLocales);
  if (strip.documentation) options.emplace_back("path-include=/usr/share/doc/*/copyright*");
  if (strip.locales) options.emplace_back("path-include=/usr/share/locale/locale.alias");
  return options;
}

void remove_matching(const std::string& root, const std::vector<std::string>& patterns) {
  std::vector<std::string> found;
  walk(root, [&](const std::string& path, bool directory) {
    bool match = std::ranges::any_of(
        patterns, [&](const std::string& pattern) { return matches_pattern(pattern, path, directory); });
    if (match && !must_stay(path)) found.push_back(root + path);
    return !match;
  });
  for (const std::string& path : found) base::remove_tree(path);
}

void remove_builders_traces(const std::string& root) { remove_matching(root, kBuildersTraces); }

void strip_tree(const std::string& root, const Strip& strip) {
  std::vector<std::string> patterns = kNeverShared;
  auto add = [&](const std::vector<std::string>& more) {
    patterns.insert(patterns.end(), more.begin(), more.end());
  };
  if (strip.documentation) add(kDocumentation);
  if (strip.locales) add(kLocales);
  if (strip.caches) add(kCaches);
  add(strip.paths);
  remove_matching(root, patterns);
  remove_dangling_certificates(root);
  if (strip.documentation) remove_empty_documentation(root);
}

}  // namespace rootfs
