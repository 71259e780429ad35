#pragma once
#include <map>
#include <string>
#include <vector>

#include "base/context.h"
#include "base/error.h"
#include "rootfs/parts.h"

namespace rootfs {

/// What packages are wanted for, and from where.
struct Origin {
  std::string name;   ///< of what is built, for messages
  std::string suite;  ///< of Debian, such as "trixie"
  Mirror mirror = {};
  /// Suites that give these packages and no others, such as "sid": {"criu", "libcriu2"}. (apt's own
  /// NAME/SUITE would take what they depend on from there, too.)
  std::map<std::string, std::vector<std::string>> more_suites = {};
  bool offline = false;  ///< what the cache has is all that there is; no mirror is asked
};

/// apt with a mirror, lists and a package cache of our own. Of the host's apt only its settings
/// (proxies, timeouts) and, where the definition names none, its mirrors are used; nothing of
/// it is changed. Kept in CACHE/apt/KEY and CACHE/packages, one user at a time.
class Apt {
 public:
  /// Finds the mirror for `origin.suite`. Throws when the host has none and the definition names none.
  Apt(base::Context& context, Origin origin, const std::string& cache_dir);

  /// Fetches the package lists; offline it only checks that there are some.
  void update();

  /// What `wanted` comes to on top of the packages in the dpkg status file `status` (empty:
  /// none): all that has to be installed, sorted by name. An unknown package is an Error with
  /// the definition's line.
  [[nodiscard]] std::vector<Package> resolve(const std::vector<base::Word>& wanted,
                                             const std::string& status) const;

  /// Makes sure that all of them are in the cache.
  void download(const std::vector<Package>& packages, const std::string& status) const;

  /// Copies packages (and of lists what is said of them) from the cache to where apt looks for them in
  /// `root`, and which suites only give what is asked of them.
  void seed(const std::string& root, const std::vector<Package>& packages, bool lists) const;

  /// apt-get with these directories; for a status file, and for what `more` says.
  [[nodiscard]] std::vector<std::string> command(const std::string& status,
                                                 const std::vector<std::string>& more) const;

  /// Where a package lies in the cache.
  [[nodiscard]] std::string package_file(const Package& package) const;

  /// When the youngest of these packages was made (seconds since 1970).
  [[nodiscard]] int64_t youngest(const std::vector<Package>& packages) const;

  /// Lines of a sources.list.
  [[nodiscard]] const std::vector<std::string>& sources() const { return sources_; }

 private:
  [[nodiscard]] std::vector<std::string> find_sources() const;
  void fetch_lists();
  [[nodiscard]] std::string needs_of_file(const std::string& file) const;
  [[nodiscard]] std::string fetched() const { return directory_ + "/lists"; }
  [[nodiscard]] std::string narrowed() const { return directory_ + "/narrowed"; }
  [[nodiscard]] std::string preferences() const;
  [[nodiscard]] std::vector<std::string> directories(const std::string& status) const;
  [[nodiscard]] base::Error not_fetched(const std::string& sentence) const;
  [[nodiscard]] base::Error failure(const base::Result& result, const std::vector<base::Word>& wanted) const;

  base::Context& context_;
  Origin origin_;
  std::string directory_;  ///< lists and settings for these sources
  std::string packages_;
  std::vector<std::string> sources_;  ///< lines of a sources.list
  base::Fd lock_;
};

/// A sentence for a failed apt or dpkg: its own first "E:" line, or else `otherwise`.
std::string apt_sentence(const std::string& output, const std::string& otherwise);

/// For a variant of mmdebstrap: the packages that it begins with, as apt patterns.
std::vector<base::Word> variant_packages(const std::string& variant);

/// The packages that a dpkg status file names as installed, sorted by name and architecture.
std::vector<Package> installed_packages(const std::string& status);

}  // namespace rootfs
