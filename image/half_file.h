#pragma once
#include <string>
#include <utility>

#include "base/fd.h"

namespace image {

/// A file or a directory that gets its name only when it is whole: until then it is `path`.half, which goes
/// with its owner. What a killed process left of that name is removed by the next one that wants it; while
/// another process works on it, there is an Error.
class [[nodiscard]] HalfFile {
 public:
  enum class Kind { kFile, kDirectory };
  HalfFile(std::string path, Kind kind);
  HalfFile(const HalfFile&) = delete;
  HalfFile& operator=(const HalfFile&) = delete;
  ~HalfFile();

  [[nodiscard]] int fd() const { return fd_.get(); }  ///< open for reading and writing, if it is a file
  [[nodiscard]] const std::string& half_path() const { return half_path_; }

  /// Gives it its name, on disk when this returns: after a power cut it is whole there, or it is what was
  /// there before. A file takes the place of an older one; a directory of none, and has to have its files on
  /// disk.
  void finish();

 private:
  std::string path_, half_path_;
  Kind kind_;
  base::Fd fd_;
  bool finished_ = false;
};

}  // namespace image
