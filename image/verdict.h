#pragma once
#include <string>

namespace image {

/// What was looked at, and what is wrong with it.
struct Verdict {
  std::string name;     ///< a part's name, or what else was checked, such as "root hash"
  std::string problem;  ///< empty: all is well
  std::string hint = {};
  [[nodiscard]] bool good() const { return problem.empty(); }
};

}  // namespace image
