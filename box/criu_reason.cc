#include "box/criu_reason.h"

namespace box {
namespace {

struct Known {
  std::string_view line;  ///< what CRIU writes
  const char* sentence;
};
constexpr Known kKnown[] = {
    {"skqueue: Control messages in queue",
     "a message that tells who sent it waits in a unix socket (SO_PASSCRED)"},
    {"Non-empty write queue on an in-flight socket",
     "a connection to a unix socket has something in it, and nobody has accepted it yet"},
    {"netlink: The socket has data to read", "messages of the kernel wait in a netlink socket"},
};

}  // namespace

std::optional<CriuReason> criu_reason(std::string_view log) {
  for (const auto& [line, sentence] : kKnown)
    if (log.contains(line))
      return CriuReason{sentence, "try again: its program has probably taken it by then"};
  return std::nullopt;
}

}  // namespace box
