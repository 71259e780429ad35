#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace box {

/// What an operator needs to know of a failed dump: a sentence and a hint.
struct CriuReason {
  std::string sentence;
  std::string hint;
};

/// Reads it out of CRIU's log (4.2), for those failures that a look at the box before cannot foresee, since
/// they hang on the moment; nullopt for all others.
std::optional<CriuReason> criu_reason(std::string_view log);

}  // namespace box
