// For tests of slots: the loader's configuration, the model of the loader, and the node's events.
#include <format>
#include <iostream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "image/grub_config.h"
#include "image/slot_file.h"
#include "image/slot_state.h"
#include "tests/unit/image/states.h"

using namespace image;

namespace {

std::string_view choice(const Boot& next) { return next.slot ? name(*next.slot) : "rescue"; }

/// DIR/grub.cfg, and for each state N.before, N.after (sectors) and N.choice.
void all_states(const std::string& dir) {
  base::write_file(dir + "/grub.cfg", loader_config());
  int number = 0;
  for (const SlotState& state : every_state()) {
    Boot next = boot(state);
    std::string path = std::format("{}/{:03}", dir, number++);
    base::write_file(path + ".before", render(state));
    base::write_file(path + ".after", render(next.left));
    base::write_file(path + ".choice", choice(next));
  }
}

/// One event, as the node or (boot) the model of the loader writes it.
void event(const std::string& path, const std::string& what, Slot slot) {
  SlotState state = read_slot_state(path);
  if (what == "boot") write_slot_state(path, boot(state).left);
  if (what == "mark-bad") write_slot_state(path, state.mark_bad(slot));
  if (what == "activate") write_slot_state(path, state.activate(slot, 1));
  if (what == "confirm") write_slot_state(path, state.confirm(slot));
}

}  // namespace

/// slot_model states DIR | judge FILE... | event FILE boot|mark-bad|activate|confirm a|b
int main(int argc, char** argv) {
  std::vector<std::string> words(argv + 1, argv + argc);
  try {
    if (words.size() == 2 && words[0] == "states") {
      all_states(words[1]);
    } else if (words.size() >= 2 && words[0] == "judge") {
      for (size_t k = 1; k < words.size(); k++) std::cout << choice(boot(read_slot_state(words[k]))) << "\n";
    } else if (words.size() == 4 && words[0] == "event") {
      event(words[1], words[2], words[3] == "a" ? Slot::kA : Slot::kB);
    } else {
      return 2;
    }
  } catch (const base::Error& error) {
    std::cerr << error.render();
    return 1;
  }
}
