// CRIU packs the content of a box's tmpfs into its images with tar, which starts a shell, and that gzip; and
// so on the other side. For the few files of /run, /dev and /dev/shm those programs' start takes all the
// time, 4 ms for each file system and more on a slow machine, with the box frozen. CRIU has forked by then
// (cr_system_userns() of criu/util.c, CRIU 4.2), so what is small is done by that process itself.
#include <unistd.h>

#include <cstring>

#include "box/preload/tmpfs_tar.h"

namespace {

// tmpfs_dump() and tmpfs_restore() of criu/filesystems.c. Whatever else is asked for, tar does.
constexpr const char* kPack[] = {"tar",
                                 "--create",
                                 "--gzip",
                                 "--no-unquote",
                                 "--no-wildcards",
                                 "--one-file-system",
                                 "--check-links",
                                 "--preserve-permissions",
                                 "--sparse",
                                 "--numeric-owner",
                                 "--directory",
                                 "/proc/self/fd/0",
                                 ".",
                                 nullptr};
constexpr const char* kUnpack[] = {"tar",         "--extract", "--gzip", "--no-unquote", "--no-wildcards",
                                   "--directory", nullptr};

/// Where the two differ; nullptr in both: nowhere.
char* const* mismatch(char* const* argv, const char* const* expected) {
  while (*argv && *expected && std::strcmp(*argv, *expected) == 0) ++argv, ++expected;
  return *expected ? nullptr : argv;
}

}  // namespace

/// In the place of libc's.
extern "C" [[gnu::visibility("default")]] int execvp(const char* file, char* const argv[]) noexcept {
  int status = 0;
  if (char* const* rest = mismatch(argv, kPack); rest && !*rest)
    if (box::pack_tmpfs(STDIN_FILENO, STDOUT_FILENO, status)) ::_exit(status);
  if (char* const* rest = mismatch(argv, kUnpack); rest && rest[0] && !rest[1])
    if (box::unpack_tmpfs(STDIN_FILENO, rest[0], status)) ::_exit(status);
  return ::execvpe(file, argv, environ);
}
