#pragma once
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "rootfs/parts.h"

/// Debian's package lists as apt keeps them: files …_dists_SUITE_…_Packages, and InRelease beside them. apt
/// reads all of a list in every run, which takes a second for each 30,000 packages; so it gets smaller ones.
/// It looks at a list's signature when it fetches it, and not later.
namespace rootfs {

/// Packages of a suite that gives these, and otherwise only what no other suite has.
using Suites = std::map<std::string, std::vector<std::string>>;

/// Makes directory `to` of the lists in `from`, with the entries that an installation of `wanted` can come
/// to: what is asked for, all that it may depend on, and what is in every system. `wanted` are dependencies
/// as a package has them, "a | b (>= 2), c". With apt's pins for these suites apt chooses the same as of
/// whole lists.
void narrow_lists(const std::string& from, const std::string& to, const Suites& suites,
                  const std::vector<std::string>& wanted);

/// The same with the entries of these packages only; returns those that no list has.
std::vector<Package> copy_entries(const std::string& from, const std::string& to,
                                  const std::vector<Package>& packages);

}  // namespace rootfs
