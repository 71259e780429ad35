#pragma once
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/context.h"

namespace CLI {
class App;
}

namespace cli {

/// What a command has when it runs.
struct Call {
  base::Context& context;
  bool json;         ///< --json: one JSON document on stdout
  int& exit_status;  ///< what the program ends with when the command succeeds: 0 unless set
};

/// One noun's commands while they are declared:
///
///     void add_box_commands(Commands& box) {
///       auto name = std::make_shared<std::string>();
///       CLI::App& stop = box.add("stop", "Stop a box", [=](const Call& call) { stop_box(call, *name); });
///       stop.add_option("NAME", *name, "the box")->required();
///     }
///
/// Each command has a page, docs/man/PROGRAM-NOUN-VERB.md, which is its --help.
class Commands {
 public:
  using Run = std::function<void(const Call&)>;
  Commands(CLI::App& app, Run& chosen) : app_(app), chosen_(chosen) {}
  /// `run` is called when all of the command line has been understood.
  CLI::App& add(std::string name, std::string summary, Run run);

 private:
  CLI::App& app_;
  Run& chosen_;
};

struct Noun {
  std::string name;  ///< empty: its commands have no noun, as `drover-node recover`
  std::string summary;
  void (*add)(Commands& commands);
};

struct Program {
  std::string name;
  std::string summary;
  std::vector<Noun> nouns;
  bool for_users = false;  ///< an ordinary user has directories of its own (cli/places.h)
};

/// The program from its arguments to its exit status: the one place where an Error becomes what
/// the user reads.
int run(const Program& program, int argc, const char* const* argv);

/// Of drover, as "0.1.0".
std::string version();

}  // namespace cli
