#include "bootstrap/modules.h"

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#include "base/error.h"
#include "base/fd.h"

namespace bootstrap {
namespace {

constexpr unsigned kCompressedFile =
    4;  // MODULE_INIT_COMPRESSED_FILE, Linux 5.17; not in Debian 13's libc headers

}  // namespace

std::vector<std::string> module_paths(std::string_view list, const std::string& directory) {
  std::vector<std::string> paths;
  for (size_t begin = 0; begin < list.size();) {
    size_t end = std::min(list.find('\n', begin), list.size());
    std::string line(list.substr(begin, end - begin));
    if (!line.empty()) paths.push_back(line.starts_with('/') ? line : directory + "/" + line);
    begin = end + 1;
  }
  return paths;
}

void load_module(const std::string& path) {
  base::Fd file = base::open(path, O_RDONLY);
  unsigned flags = path.ends_with(".xz") || path.ends_with(".zst") ? kCompressedFile : 0;
  if (::syscall(SYS_finit_module, file.get(), "", flags) == 0) return;
  if (errno == EEXIST || errno == ENODEV || errno == ENXIO) return;
  throw base::sys_error("cannot load the module {}", path);
}

}  // namespace bootstrap
