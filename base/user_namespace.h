#pragma once
#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/child.h"

namespace base {

/// Ids that a user may give to processes of its own: a line of /etc/subuid or /etc/subgid (subuid(5)).
struct IdRange {
  uint64_t first = 0, count = 0;
};
/// The first range of that user, by name or by number, that has `least` ids.
std::optional<IdRange> find_id_range(std::string_view text, std::string_view name, uid_t uid, uint64_t least);
/// Where a range begins that nobody has, behind all those in `text`; 100,000 at least, as useradd(8) has it.
uint64_t free_ids_begin(std::string_view text);

/// Makes this process, which an ordinary user runs, root of a user namespace of its own, without a privilege
/// over anything outside: id 0 in it is that user, and 1 to 65535 are ids of the user's ranges in /etc/subuid
/// and /etc/subgid, set by newuidmap(1) and newgidmap(1) of the package uidmap. So files get the owners that
/// root would give them, as long as they are looked at from in here. It lasts until the process ends.
/// There may be no other thread: the kernel refuses it (user_namespaces(7)). Throws, with the way out, where
/// the machine does not allow it.
void enter_own_user_namespace(Runner& runner);

/// What on this machine keeps ordinary users from namespaces, as a hint; empty when nothing is known.
std::string what_forbids_user_namespaces();

}  // namespace base
