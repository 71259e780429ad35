#include "image/closure.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"
#include "base/text.h"
#include "image/elf.h"
#include "image/libraries.h"
#include "rootfs/erofs.h"
#include "rootfs/tree.h"

namespace image {
namespace {

namespace fs = std::filesystem;

/// Where systemd looks for a program that has no path (systemd.service(5)).
const std::vector<std::string> kProgramDirectories = {"/usr/local/sbin", "/usr/local/bin", "/usr/sbin",
                                                      "/usr/bin"};
const std::vector<std::string> kUnitDirectories = {"/etc/systemd/system", "/usr/lib/systemd/system",
                                                   "/etc/systemd/user", "/usr/lib/systemd/user"};
constexpr size_t kMostScriptLine = 256;  // BINPRM_BUF_SIZE of Linux

/// What is found in one root.
class Search {
 public:
  explicit Search(const std::string& root) : root_(root), tree_(root) {}

  std::vector<Gap> run() {
    for (const std::string& path : rootfs::paths_below(root_)) {
      struct stat status;
      if (::lstat(path.c_str(), &status) != 0) throw base::sys_error("cannot look at {}", path);
      std::string file = path.substr(root_.size());
      if (S_ISLNK(status.st_mode)) check_link(file);
      if (!S_ISREG(status.st_mode)) continue;
      bool executable = (status.st_mode & 0111) != 0;
      if (auto elf = read_elf(path))
        check_elf(file, *elf);
      else if (executable)
        check_script(file);
    }
    for (const std::string& directory : kUnitDirectories) check_units(directory);
    return gaps_;
  }

 private:
  [[nodiscard]] bool there(const std::string& path) const { return tree_.has(path); }

  /// Links of packages into what an image never has (/proc, /run, …) are theirs; a link between libraries or
  /// programs that leads nowhere was made so by the strip.
  void check_link(const std::string& file) {
    bool ours = file.starts_with("/usr/bin/") || file.starts_with("/usr/sbin/") ||
                file.starts_with("/usr/lib/x86_64");
    if (ours && !there(file)) gaps_.push_back({file, "link to " + fs::read_symlink(root_ + file).string()});
  }

  void check_elf(const std::string& file, const Elf& elf) {
    if (!elf.interpreter.empty() && !there(elf.interpreter))
      gaps_.push_back({file, "interpreter " + elf.interpreter});
    std::string origin = fs::path(file).parent_path();
    for (const std::string& library : elf.needed)
      if (find_library(root_, library, elf.run_path, origin).empty())
        gaps_.push_back({file, "library " + library});
  }

  void check_script(const std::string& file) {
    std::string head(kMostScriptLine, '\0');
    base::Fd fd = base::open(root_ + file, O_RDONLY);
    head.resize(base::read_full(fd.get(), std::as_writable_bytes(std::span(head))));
    if (!head.starts_with("#!")) return;
    std::istringstream words(head.substr(2, head.find('\n') - 2));
    std::string interpreter, argument;
    words >> interpreter >> argument;
    if (!there(interpreter)) {
      gaps_.push_back({file, "interpreter " + interpreter});
    } else if (interpreter.ends_with("/env") && !argument.empty() && !argument.starts_with('-') &&
               !finds_program(argument)) {
      gaps_.push_back({file, "interpreter " + argument});
    }
  }

  [[nodiscard]] bool finds_program(const std::string& program) const {
    if (program.starts_with('/')) return there(program);
    for (const std::string& directory : kProgramDirectories)
      if (there(directory + "/" + program)) return true;
    return false;
  }

  void check_units(const std::string& directory) {
    std::error_code missing;
    for (const auto& entry : fs::directory_iterator(root_ + directory, missing)) {
      std::string name = directory + "/" + entry.path().filename().string();
      if (entry.is_symlink()) continue;
      // Drop-ins add to a unit, or say it anew.
      if (entry.is_directory() && name.ends_with(".d")) check_units(name);
      if (!entry.is_regular_file()) continue;
      for (const std::string& line : base::lines_of(base::read_file(entry.path()))) check_exec(name, line);
    }
  }

  /// "ExecStart=-/usr/bin/x a b": one of systemd.exec's prefixes may stand before the program; '-' there says
  /// that it may fail, and so be away.
  void check_exec(const std::string& unit, const std::string& line) {
    size_t equals = line.find('=');
    if (!line.starts_with("Exec") || equals == std::string::npos || line.starts_with("ExecSearchPath"))
      return;
    std::istringstream words(line.substr(equals + 1));
    std::string program;
    words >> program;
    size_t begin = program.find_first_not_of("@-:+!");
    if (begin == std::string::npos || program.substr(0, begin).contains('-')) return;
    program = program.substr(begin);
    if (program.find_first_of("%$\"") != std::string::npos) return;
    if (!finds_program(program)) gaps_.push_back({unit, "program " + program});
  }

  std::string root_;
  rootfs::Tree tree_;
  std::vector<Gap> gaps_;
};

}  // namespace

std::vector<Gap> find_gaps(const std::string& root) { return Search(root).run(); }

}  // namespace image
