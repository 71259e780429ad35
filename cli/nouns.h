#pragma once
#include "cli/command.h"

namespace cli {

// A line for each cmd_NOUN.cc, such as: void add_box_commands(Commands& box);

}  // namespace cli
