#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string_view>

#include "base/child.h"
#include "base/error.h"
#include "box/config.h"
#include "cli/command.h"
#include "cli/nouns.h"
#include "cli/output.h"
#include "migrate/destination.h"
#include "migrate/guard.h"
#include "migrate/settle.h"
#include "migrate/transport.h"

namespace cli {
namespace {

struct Options {
  std::string rsh, take, drop;
};

void recover(const Call& call, const Options& options) {
  std::optional<std::string> only;
  if (!options.take.empty()) only = options.take;
  if (!options.drop.empty()) only = options.drop;
  if (only) box::check_name(*only);
  const auto settled = migrate::recover(call.context, migrate::rsh_words(options.rsh), only,
                                        !options.take.empty()   ? migrate::Ruling::kTake
                                        : !options.drop.empty() ? migrate::Ruling::kDrop
                                                                : migrate::Ruling::kNone);
  size_t open = 0;
  auto list = nlohmann::ordered_json::array();
  for (const auto& s : settled) {
    open += s.open;
    list.push_back({{"box", s.box}, {"settled", !s.open}, {"what", s.what}});
    if (!call.json) print(s.what + "\n");
  }
  if (call.json) print_json(list);
  if (open)
    throw base::error("{} of {} unfinished moves could not be settled yet", open, settled.size())
        .hint("the lines above say what each waits for; run `drover-node recover` again then")
        .exit(base::Exit::kNeedsRecover);
}

void receive(const Call& call) { migrate::receive(call.context, STDIN_FILENO, STDOUT_FILENO); }

/// All that a node, or `drover template copy`, ever runs on another one (migrate/transport.cc,
/// templates/copy.cc), and what their hints tell an operator to try.
struct Allowed {
  std::string_view command;
  void (*run)(const Call& call);
};
constexpr auto kAllowed = std::to_array<Allowed>({
    {"drover-node receive", receive},
    {"drover-node template receive", receive_template},
    {"drover-node --version", [](const Call&) { print("drover-node " + version() + "\n"); }},
});

/// sshd runs this whatever was asked for, and tells what that was (sshd(8), command="…").
void receive_forced(const Call& call) {
  const char* wanted = ::getenv("SSH_ORIGINAL_COMMAND");
  if (!wanted) throw base::error("this key is for the drover-node of other nodes: it opens no shell");
  const auto* found = std::ranges::find(kAllowed, wanted, &Allowed::command);
  if (found == kAllowed.end())
    // One line, since the other side shows one, and no hint: whoever has the key need not learn more.
    throw base::error("this key is for the drover-node of other nodes: it does not run {}",
                      base::quoted({wanted}));
  found->run(call);
}

}  // namespace

void add_node_commands(Commands& commands) {
  auto cgroup = std::make_shared<std::string>();
  commands
      .add("guard", "Hold a box's memory while it arrives",
           [=](const Call&) { migrate::guard_memory(STDIN_FILENO, *cgroup); })
      .add_option("CGROUP", *cgroup, "the box's control group")
      ->required();
  auto options = std::make_shared<Options>();
  CLI::App& command = commands.add("recover", "Finish or reverse what a crash left",
                                   [=](const Call& call) { recover(call, *options); });
  command.add_option("--rsh", options->rsh, "transport instead of ssh");
  auto* take = command.add_option("--take", options->take, "a box that is this node's, by your word");
  command.add_option("--drop", options->drop, "a box whose copy here goes, by your word")->excludes(take);
  auto forced = std::make_shared<bool>(false);
  commands
      .add("receive", "Serve another node's drover-node on stdin and stdout",
           [=](const Call& call) { *forced ? receive_forced(call) : receive(call); })
      .add_flag("--forced", *forced, "for authorized_keys: do what SSH was asked for, if it is this");
}

}  // namespace cli
