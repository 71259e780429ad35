#pragma once
#include <optional>
#include <string>
#include <vector>

namespace image {

/// What a program or library asks the loader for (elf(5); ELF64 of this machine only).
struct Elf {
  std::string interpreter;            ///< PT_INTERP; empty for a library
  std::vector<std::string> needed;    ///< DT_NEEDED
  std::vector<std::string> run_path;  ///< of DT_RUNPATH or DT_RPATH, as it stands there
};

/// nullopt for what is no ELF file, or one that asks for nothing (static, a relocatable object). A damaged
/// one is an Error that names it.
std::optional<Elf> read_elf(const std::string& path);

}  // namespace image
