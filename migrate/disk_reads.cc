#include "migrate/disk_reads.h"

#include <fcntl.h>

#include <cstdlib>
#include <filesystem>
#include <format>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/fd.h"

namespace migrate {
namespace {

/// The number behind `key` in a file of /proc; empty: it is not there.
std::string field_of(const std::string& path, const std::string& key) {
  try {
    const std::string text = base::read_file_if_exists(path).value_or("");
    const size_t at = text.find(key);
    if (at == std::string::npos) return "";
    return text.substr(at + key.size(), text.find('\n', at) - at - key.size());
  } catch (const base::Error&) {  // closed, or ended, meanwhile
    return "";
  }
}

bool has_direct_file(pid_t process) {
  std::error_code gone;
  for (std::filesystem::directory_iterator it(std::format("/proc/{}/fdinfo", process), gone), end;
       !gone && it != end; it.increment(gone))
    if ((std::strtoul(field_of(it->path(), "flags:").c_str(), nullptr, 8) & O_DIRECT) != 0) return true;
  return false;
}

}  // namespace

void DiskReads::look(bool asynchronous) {
  // Counted when a read is begun (proc_pid_io(5)). A kernel that does not count has nothing there.
  std::string bytes = field_of(std::format("/proc/{}/io", process_), "\nread_bytes:");
  const bool more = bytes.empty() || bytes != bytes_;
  reading_ = more && (asynchronous || has_direct_file(process_));
  bytes_ = std::move(bytes);
}

std::vector<AddressRange> DiskReads::again() {
  // One that had its pages already may have been counted only since.
  if (!told_.empty() && reading_) told_.back().at_risk = true;
  std::erase_if(told_, [](const Told& told) { return !told.at_risk; });
  std::vector<AddressRange> ranges;
  for (const Told& told : told_) ranges.insert(ranges.end(), told.ranges.begin(), told.ranges.end());
  const auto settled = Clock::now() - kSettle;
  std::erase_if(told_, [&](const Told& told) { return told.when <= settled; });
  return ranges;
}

void DiskReads::told(std::vector<AddressRange> ranges) {
  told_.push_back({Clock::now(), reading_, std::move(ranges)});
}

}  // namespace migrate
