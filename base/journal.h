#pragma once
#include <nlohmann/json.hpp>

#include <string>
#include <vector>

#include "base/fd.h"

namespace base {

/// An append-only file of JSON records, each on disk (fsync) before `append` returns.
/// A record is one line: CRC-32C in 8 hex digits, a space, the JSON text, a newline
/// (docs/formats/journal.md). A torn last record is cut off when the file is opened;
/// a damaged record is an Error, never skipped.
class Journal {
 public:
  /// Opens or creates; the directory is fsync'd when the file is new. All records are on disk then,
  /// whatever became of their writer. One process at a time: an Error when another one (or this one) has it
  /// open.
  static Journal open(const std::string& path);
  /// A look at the whole records, without opening it for oneself; none when there is no file. The last one
  /// may not be on disk yet.
  static std::vector<nlohmann::json> read(const std::string& path);

  /// After an Error here nothing more can be appended: what the disk holds is not known
  /// until the file is opened again.
  void append(const nlohmann::json& record);
  [[nodiscard]] const std::vector<nlohmann::json>& records() const { return records_; }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  Journal(std::string path, Fd fd, std::vector<nlohmann::json> records)
      : path_(std::move(path)), fd_(std::move(fd)), records_(std::move(records)) {}
  std::string path_;
  Fd fd_;
  std::vector<nlohmann::json> records_;
};

}  // namespace base
