#pragma once
#include "base/fd.h"

namespace box {

/// Made while the box still runs, it has the kernel do what it would else do when CRIU sets its first
/// breakpoint in the frozen box, which takes 10 ms; and lasts as long as it lives. Nothing depends on it.
class ReadyForCriu {
 public:
  ReadyForCriu();

 private:
  base::Fd event_;
};

}  // namespace box
