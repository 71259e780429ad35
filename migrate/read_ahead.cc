#include "migrate/read_ahead.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <optional>
#include <stop_token>

#include "base/error.h"
#include "base/fd.h"
#include "base/log.h"

namespace migrate {
namespace {

constexpr uint64_t kMostBytes = 256 << 20;
constexpr size_t kPiece = 256 << 10;  // so little that nobody waits for the end of one

std::optional<base::Fd> find_file(const std::vector<base::Fd>& layers, const std::string& path) {
  for (const base::Fd& layer : layers) {
    auto file = base::open_beneath(layer.get(), path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    struct stat s{};
    if (file && ::fstat(file->get(), &s) == 0 && S_ISREG(s.st_mode)) return file;
  }
  return std::nullopt;
}

void read_files(const std::stop_token& stop, const std::vector<std::string>& directories,
                const std::vector<std::string>& files) {
  std::vector<base::Fd> layers;
  for (const auto& directory : directories) layers.push_back(base::open(directory, O_PATH | O_DIRECTORY));
  const auto piece = std::make_unique<std::byte[]>(kPiece);
  uint64_t bytes = 0;
  for (const auto& path : files) {
    const auto file = find_file(layers, path);
    for (ssize_t got = 1; file && got > 0; bytes += static_cast<uint64_t>(got)) {
      if (stop.stop_requested() || bytes >= kMostBytes) return;
      got = std::max<ssize_t>(::read(file->get(), piece.get(), kPiece), 0);
    }
  }
}

}  // namespace

ReadAhead::ReadAhead(std::vector<std::string> layers, std::vector<std::string> files)
    : thread_([layers = std::move(layers), files = std::move(files)](const std::stop_token& stop) {
        try {
          read_files(stop, layers, files);
        } catch (const base::Error& e) {
          base::debug("the box's files are read when it needs them: {}", e.message());
        }
      }) {}

}  // namespace migrate
