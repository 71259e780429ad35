#pragma once
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rootfs/parts.h"

namespace templates {

/// What a template is made from: one TOML file (docs/formats/template-definition.md).
struct Definition {
  using Word = base::Word;
  using Mirror = rootfs::Mirror;
  using File = rootfs::File;
  using Strip = rootfs::Strip;

  struct Distribution {
    std::string suite;
    std::string variant = "apt";  ///< what is there before `packages`, as mmdebstrap names it
  };

  /// The keys of [box]; what is not given comes from the base, or from Start.
  struct Box {
    std::optional<std::vector<std::string>> init;
    std::map<std::string, std::string> env;
    std::optional<std::string> working_dir, stop_signal;
    std::optional<unsigned> stop_seconds;
    std::optional<bool> control_groups;
    std::string place;  ///< "FILE:LINE"
  };

  std::string name, description;
  Word base;  ///< empty for an OS template, which has a distribution
  std::optional<Distribution> distribution;
  Mirror mirror;
  std::vector<Word> packages, commands;
  std::vector<File> files;
  Strip strip;
  Box box;
};

/// Reads a definition and the files it adds (relative to it). An Error names file, line, key
/// and what was expected.
Definition read_definition(const std::string& path);
/// The same of a text; files that it adds are read relative to `directory`.
Definition parse_definition(std::string_view text, const std::string& file, const std::string& directory);

}  // namespace templates
