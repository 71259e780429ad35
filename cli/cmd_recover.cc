#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include <memory>

#include "base/error.h"
#include "cli/nouns.h"
#include "cli/output.h"
#include "migrate/destination.h"
#include "migrate/settle.h"
#include "migrate/transport.h"

namespace cli {
namespace {

void recover(const Call& call, const std::string& rsh) {
  const auto settled = migrate::recover(call.context, migrate::rsh_words(rsh));
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

}  // namespace

void add_node_commands(Commands& commands) {
  auto rsh = std::make_shared<std::string>();
  commands
      .add("recover", "Finish or reverse what a crash left", [=](const Call& call) { recover(call, *rsh); })
      .add_option("--rsh", *rsh, "transport instead of ssh");
  commands.add("receive", "Serve another node's drover-node on stdin and stdout",
               [](const Call& call) { migrate::receive(call.context, STDIN_FILENO, STDOUT_FILENO); });
}

}  // namespace cli
