#include "base/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/hash.h"

namespace base {
namespace {

constexpr size_t kHeader = 9;  // eight hex digits and a space

std::string header(std::string_view text) { return std::format("{:08x} ", crc32c(text)); }

/// A record's line, without its newline, or nothing when it is not whole.
std::optional<nlohmann::json> parse(std::string_view line) {
  if (line.size() <= kHeader) return std::nullopt;
  std::string_view text = line.substr(kHeader);
  if (line.substr(0, kHeader) != header(text)) return std::nullopt;
  auto record = nlohmann::json::parse(text, nullptr, false);
  if (record.is_discarded()) return std::nullopt;
  return record;
}

/// Whether `tail`, the end of a file, is what an append leaves that a crash cut short:
/// a line without its end, or with bytes that never reached the disk and read as NUL.
/// A whole line whose newline alone was damaged is none.
bool is_torn(std::string_view tail) {
  if (tail.contains('\0')) return true;
  return !tail.ends_with('\n') && !parse(tail.substr(0, tail.size() - 1));
}

struct Content {
  std::vector<nlohmann::json> records;
  size_t good = 0;  ///< bytes of whole records; what follows is torn
  size_t last = 0;  ///< where the last whole one begins
};

Content parse_all(std::string_view text, const std::string& path) {
  Content content;
  while (content.good < text.size()) {
    std::string_view rest = text.substr(content.good);
    size_t size = std::min(rest.find('\n'), rest.size());
    auto record = size < rest.size() ? parse(rest.substr(0, size)) : std::nullopt;
    if (!record) {
      bool last = size + 1 >= rest.size();
      if (last && is_torn(rest)) break;
      throw error("{} is damaged in record {} (at byte {})", path, content.records.size() + 1, content.good)
          .hint("restore it from a copy; nothing was changed");
    }
    content.records.push_back(std::move(*record));
    content.last = content.good;
    content.good += size + 1;
  }
  return content;
}

}  // namespace

Journal Journal::open(const std::string& path) {
  bool is_new = !exists(path);
  Fd fd = base::open(path, O_RDWR | O_CREAT, 0600);
  if (::flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) throw sys_error("cannot lock {}", path);
    throw error("{} is in use by another process", path).hint("wait until that has finished: fuser " + path);
  }
  const std::string text = read_file(path);
  Content content = parse_all(text, path);
  if (::ftruncate(fd.get(), static_cast<off_t>(content.good)) != 0)
    throw sys_error("cannot cut off the torn end of {}", path);
  // The last record's writer may have died before its fsync, or been told that it failed: Linux then counts
  // the page as written, and another fsync alone would be content with it (fsync(2), "Errors"). So it is
  // written again, in its place, which needs no space.
  const std::string_view last = std::string_view(text).substr(content.last, content.good - content.last);
  if (::lseek(fd.get(), static_cast<off_t>(content.last), SEEK_SET) < 0)
    throw sys_error("cannot write {}", path);
  write_full(fd.get(), last, path);
  if (::fsync(fd.get()) != 0) throw sys_error("cannot write {} to disk", path);
  if (is_new) fsync_path(std::filesystem::absolute(path).parent_path());
  return {path, std::move(fd), std::move(content.records)};
}

std::vector<nlohmann::json> Journal::read(const std::string& path) {
  auto text = read_file_if_exists(path);
  return text ? parse_all(*text, path).records : std::vector<nlohmann::json>();
}

void Journal::append(const nlohmann::json& record) {
  if (!fd_) throw error("{} cannot be written any more: an earlier record failed", path_);
  std::string text;
  try {
    text = record.dump();
  } catch (const nlohmann::json::exception& e) {
    throw error("a record for {} is not valid: {}", path_, e.what());
  }
  try {
    write_full(fd_.get(), header(text) + text + "\n", path_);
    if (::fsync(fd_.get()) != 0) throw sys_error("cannot write {} to disk", path_);
  } catch (...) {
    fd_.close();
    throw;
  }
  records_.push_back(record);
}

}  // namespace base
