#include "image/grub_config.h"

#include <format>

#include "image/slot_state.h"

namespace image {
namespace {

// A sector that GRUB cannot read leaves all variables empty: no slot is bootable then.
constexpr std::string_view kHead = R"(# Made by drover. Which slot boots is in slot-state, beside this file.
set timeout=0
serial --unit=0 --speed=115200
terminal_output console serial
set choice=rescue
load_env --file $prefix/slot-state drover_slots first a_health a_tries b_health b_tries
)";

// GRUB's script has no arithmetic. A trial that cannot be counted would be one without end, so that slot is
// not started; a confirmed slot is started also from a disk that takes no writes.
std::string count_function(Slot slot) {
  std::string text = std::format(
      "function try_{0} {{\n"
      "  if [ \"$choice\" != rescue -o \"$drover_slots\" != 1 ]; then return; fi\n"
      "  if [ \"${0}_health\" != trial -a \"${0}_health\" != confirmed ]; then return; fi\n",
      name(slot));
  for (int tries = kMostTries; tries > 0; tries--) {
    text += std::format("  {}if [ \"${}_tries\" = {} ]; then set {}_tries={}\n",
                        tries == kMostTries ? "" : "el", name(slot), tries, name(slot), tries - 1);
  }
  text += std::format(
      "  else return; fi\n"
      "  if save_env --file $prefix/slot-state {0}_tries; then set choice={0}\n"
      "  elif [ \"${0}_health\" = confirmed ]; then set choice={0}; fi\n"
      "}}\n",
      name(slot));
  return text;
}

// What comes back from a slot has not booted: the next round of the machine goes on with the tries that are
// left. `source` (GRUB 2.12) does not fail for a file that is not there; `boot` does then.
constexpr std::string_view kTail = R"(if [ "$first" = a ]; then try_a; try_b
elif [ "$first" = b ]; then try_b; try_a; fi
echo "drover: $choice"
if [ "$choice" != rescue ]; then
  source $prefix/$choice/boot.cfg
  boot
elif [ "$grub_platform" = efi ]; then
  if chainloader $prefix/rescue/ipxe.efi; then boot; fi
else
  if linux16 $prefix/rescue/ipxe.lkrn; then boot; fi
fi
echo "drover: $choice did not start"
sleep 5
reboot
)";

}  // namespace

std::string loader_config() {
  std::string text(kHead);
  for (Slot slot : {Slot::kA, Slot::kB}) text += count_function(slot);
  text += kTail;
  return text;
}

}  // namespace image
