// drover-node: for every node; what it does, it does on this node.
#include "cli/command.h"
#include "cli/nouns.h"

int main(int argc, char** argv) {
  const cli::Program drover_node = {
      .name = "drover-node",
      .summary = "runs and moves the boxes of this node",
      .nouns = {{.name = "box", .summary = "the boxes of this node", .add = cli::add_box_commands},
                {.name = "template",
                 .summary = "the templates on this node",
                 .add = cli::add_node_template_commands},
                {.name = "bootstrap",
                 .summary = "what a node does between the loader and its boxes",
                 .add = cli::add_bootstrap_commands},
                {.name = "slot", .summary = "the two slots of this node", .add = cli::add_slot_commands},
                {.name = "", .summary = "", .add = cli::add_health_commands},
                {.name = "", .summary = "", .add = cli::add_node_commands}},
  };
  return cli::run(drover_node, argc, argv);
}
