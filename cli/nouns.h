#pragma once
#include "cli/command.h"

namespace cli {

void add_box_commands(Commands& commands);            // cmd_box.cc
void add_bootstrap_commands(Commands& commands);      // cmd_bootstrap.cc
void add_image_commands(Commands& commands);          // cmd_image.cc
void add_image_build_commands(Commands& commands);    // cmd_image_build.cc
void add_node_commands(Commands& commands);           // cmd_recover.cc
void add_slot_commands(Commands& commands);           // cmd_slot.cc
void add_health_commands(Commands& commands);         // cmd_slot.cc
void add_template_commands(Commands& commands);       // cmd_template.cc
void add_node_template_commands(Commands& commands);  // cmd_template.cc

/// `drover-node template receive`. stdout is the stream's: nothing else may be written there.
void receive_template(const Call& call);  // cmd_template.cc

}  // namespace cli
