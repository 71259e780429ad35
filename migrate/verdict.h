#pragma once
#include <string>

namespace migrate {

/// What a kind of thing is called, and how the box can be moved all the same.
struct Verdict {
  std::string what;  ///< goes on after "process 4711 (fio) ": "uses io_uring, which cannot be moved"
  std::string hint = "end that process, or start it so that it does without; the box runs on as before";
};

inline std::string cannot(const std::string& what) { return what + ", which cannot be moved"; }

}  // namespace migrate
