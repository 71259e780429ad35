#include "image/cache.h"

#include <filesystem>
#include <system_error>

#include "base/fd.h"
#include "base/undo.h"

namespace image {
namespace {

namespace fs = std::filesystem;

constexpr const char* kHalf = ".part";

}  // namespace

void make_cached(const std::string& file, const std::function<void(const std::string& part)>& make) {
  std::string part = file + kHalf;
  base::make_directories(fs::path(file).parent_path());
  base::Undo undo;
  undo.add("remove " + part, [&] { fs::remove(part); });
  make(part);
  base::fsync_path(part);  // a torn one with the good name would be in all later images
  fs::rename(part, file);
  undo.commit();
}

void remove_leftovers(const std::string& cache_dir) {
  std::error_code missing;
  for (const char* name : {"/image/roots", "/image/initrds", "/image/times"})
    for (const auto& entry : fs::directory_iterator(cache_dir + name, missing))
      if (entry.path().extension() == kHalf) fs::remove(entry.path());
  for (const auto& entry : fs::directory_iterator(cache_dir + "/image/scratch", missing))
    base::remove_tree(entry.path());
}

}  // namespace image
