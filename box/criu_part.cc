#include "box/criu_part.h"

#include <sys/mman.h>

#include <cstdlib>
#include <format>

#include "base/error.h"

namespace box {

CriuPart::CriuPart() : library_(::memfd_create("criu_part.so", MFD_CLOEXEC)) {
  if (!library_) throw base::sys_error("cannot make a memory file");
  base::write_full(library_.get(), std::as_bytes(criu_part_library()), "our part of CRIU");
}

void CriuPart::use() const {
  ::setenv("LD_PRELOAD", std::format("/proc/{}/fd/{}", owner_, library_.get()).c_str(), 1);
}

}  // namespace box
