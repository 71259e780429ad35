#pragma once
#include "cli/command.h"

namespace cli {

void add_box_commands(Commands& commands);            // cmd_box.cc
void add_node_commands(Commands& commands);           // cmd_recover.cc
void add_template_commands(Commands& commands);       // cmd_template.cc
void add_node_template_commands(Commands& commands);  // cmd_template.cc

/// `drover-node template receive`. stdout is the stream's: nothing else may be written there.
void receive_template(const Call& call);  // cmd_template.cc

}  // namespace cli
