#pragma once
#include <sys/stat.h>

#include <optional>
#include <string>
#include <string_view>

#include "migrate/tree_record.h"

namespace migrate {

/// Where extended attributes are asked for: an open file or directory, or a name in an open directory
/// (symlinks and special files cannot be opened).
class XattrPlace {
 public:
  explicit XattrPlace(int fd) : fd_(fd) {}
  XattrPlace(int dir, std::string_view name) : path_(std::format("/proc/self/fd/{}/{}", dir, name)) {}

  // As the system calls: -1 with errno set.
  ssize_t list(std::span<char> out) const;
  ssize_t get(const char* name, std::span<char> out) const;
  int set(const char* name, std::string_view value) const;
  int remove(const char* name) const;

 private:
  int fd_ = -1;
  std::string path_;
};

/// Mode, owner, times and extended attributes of a file.
struct Metadata {
  std::string wire;  ///< as it is sent
  /// trusted.overlay.nlink: by how many the names of the file in the merged tree differ from its
  /// st_nlink here.
  std::optional<long> overlay_nlink;
};

/// nullopt with errno set: the file has vanished. `path` is for messages. A file of which only the
/// metadata was copied up (overlay.metacopy) is refused: its content lies in another layer.
std::optional<Metadata> read_metadata(const XattrPlace& place, const struct stat& status,
                                      const std::string& path);

/// For utimensat(2): access time, modification time.
using Times = std::array<timespec, 2>;
void put_times(std::string& out, const struct stat& status);
Times take_times(RecordReader& in);

/// Takes metadata off the stream and gives it to what was just created, or to a directory that
/// was there before (`existed`: attributes that the stream does not name are removed).
/// `fd` is an open file or directory, or with `name` the directory that holds it.
void apply_metadata(RecordReader& in, int fd, const char* name, mode_t type, bool existed,
                    const std::string& path);

/// Throws for errno after a call that makes or writes something at `path`; says so in plain words
/// when the disk or the quota is full.
[[noreturn]] void throw_cannot_write(const std::string& path);

}  // namespace migrate
