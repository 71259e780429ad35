#pragma once
#include "cli/command.h"

namespace cli {

// A line for each cmd_NOUN.cc, such as: void add_box_commands(Commands& box);
void add_template_commands(Commands& commands);
void add_node_template_commands(Commands& commands);

}  // namespace cli
