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
  [[nodiscard]] pid_t pid() const { return child_.pid(); }
  /// Closes our end and lets the other one finish.
  void finish();
  /// For a connection on which nothing came: that the node cannot be reached, and why, in the transport's
  /// words.
  [[nodiscard]] base::Error unreachable();
  /// What the other node has warned of so far, as warnings of ours.
  void pass_on_warnings() const;

 private:
  std::string node_;
  std::vector<std::string> rsh_;
  base::Fd in_, out_;
  base::Fd talk_;  ///< its stderr: warnings, and once more what the other node has sent us as its failure
  base::Child child_;
};

/// `e` for the operator: the other node has its name in it, and what it said stands for itself.
base::Error naming(const std::string& node, const base::Error& e);

}  // namespace migrate
