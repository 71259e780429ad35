#pragma once
#include <string>
#include <vector>

namespace image {

/// Something that stays in a root and cannot work, as what it needs is gone.
struct Gap {
  std::string file;   ///< in the root
  std::string needs;  ///< "library libx.so.1", "interpreter /bin/x", "program /usr/bin/x", "link to /x"
};

/// Proves that what stays in `root` has what it needs: each ELF file its libraries (DT_NEEDED, found as
/// ld.so(8) does in the root: RUNPATH, ld.so.conf's directories, the default ones) and its program
/// interpreter, each script the interpreter that its first line names, each systemd unit and drop-in the
/// programs of its Exec… lines. None found: the root is whole. What is loaded with dlopen(3), as modules of
/// NSS and PAM are, cannot be seen.
std::vector<Gap> find_gaps(const std::string& root);

}  // namespace image
