#pragma once
#include <string>
#include <vector>

#include "base/child.h"
#include "base/error.h"

namespace migrate {

/// How one node runs drover-node on another: OpenSSH, or what --rsh named (as rsync's -e: words,
/// no shell). The last words are the node's name and the command.
std::vector<std::string> rsh_words(const std::string& option);  ///< empty option: ssh
std::vector<std::string> remote_argv(const std::vector<std::string>& rsh, const std::string& node,
                                     const std::vector<std::string>& command);

/// A running `drover-node receive` on another node, and the pipes to it.
class Transport {
 public:
  Transport(const std::vector<std::string>& rsh, const std::string& node,
            const std::vector<std::string>& command);

  [[nodiscard]] int in() const { return in_.get(); }
  [[nodiscard]] int out() const { return out_.get(); }
  /// Closes our end and lets the other one finish.
  void finish();

 private:
  base::Fd in_, out_;
  base::Child child_;
};

/// What the other side of a failed connection is called in messages, with a hint.
base::Error unreachable(const std::string& node, const base::Error& cause);

}  // namespace migrate
