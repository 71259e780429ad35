#include "migrate/transport.h"

#include <utility>

#include "base/error.h"

namespace migrate {
namespace {

struct Started {
  base::Fd in, out;
  base::Child child;
};

Started start(const std::vector<std::string>& argv) {
  base::Pipe to = base::make_pipe(), from = base::make_pipe();
  base::Child child = base::Child::start(argv, to.read.get(), from.write.get(), -1);
  return {std::move(from.read), std::move(to.write), std::move(child)};
}

}  // namespace

std::vector<std::string> rsh_words(const std::string& option) {
  if (option.empty())
    // Nobody answers a prompt here, and a dead link is noticed within 15 s.
    return {"ssh",
            "-o",
            "BatchMode=yes",
            "-o",
            "ConnectTimeout=10",
            "-o",
            "ServerAliveInterval=5",
            "-o",
            "ServerAliveCountMax=3"};
  std::vector<std::string> words;
  std::string word;
  char quote = 0;
  bool in_word = false;
  for (char c : option) {
    if (quote) {
      if (c == quote)
        quote = 0;
      else
        word += c;
    } else if (c == '\'' || c == '"') {
      quote = c;
      in_word = true;
    } else if (c == ' ' || c == '\t') {
      if (in_word) words.push_back(std::exchange(word, {}));
      in_word = false;
    } else {
      word += c;
      in_word = true;
    }
  }
  if (quote) throw base::error("--rsh has a quote that is not closed: {}", option).exit(base::Exit::kUsage);
  if (in_word) words.push_back(word);
  if (words.empty()) throw base::error("--rsh names no command").exit(base::Exit::kUsage);
  return words;
}

std::vector<std::string> remote_argv(const std::vector<std::string>& rsh, const std::string& node,
                                     const std::vector<std::string>& command) {
  // ssh would take it for an option.
  if (node.empty() || node.front() == '-')
    throw base::error("'{}' is no node's name", node)
        .hint("give a host name or an address, as for ssh")
        .exit(base::Exit::kUsage);
  std::vector<std::string> argv = rsh;
  argv.push_back(node);
  argv.insert(argv.end(), command.begin(), command.end());
  return argv;
}

Transport::Transport(const std::vector<std::string>& rsh, const std::string& node,
                     const std::vector<std::string>& command)
    : child_([&] {
        Started s = start(remote_argv(rsh, node, command));
        in_ = std::move(s.in);
        out_ = std::move(s.out);
        return std::move(s.child);
      }()) {}

void Transport::finish() {
  out_.close();
  child_.wait(std::chrono::seconds(10));
}

base::Error unreachable(const std::string& node, const base::Error& cause) {
  return base::error("cannot reach drover-node on {}: {}", node, cause.message())
      .hint("try `ssh " + node + " drover-node --version`: it must answer without asking for anything");
}

}  // namespace migrate
