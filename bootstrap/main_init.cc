// drover-init: /init of the initrd of a host image. Linked statically, from this folder and base/ alone, so
// that the initrd needs no library for it (docs/decisions/0022).
#include "bootstrap/console.h"
#include "bootstrap/initrd.h"

int main() { bootstrap::as_process_one("this slot cannot be started", bootstrap::run_initrd); }
