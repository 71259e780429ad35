#include "migrate/transport.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <sstream>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"

namespace migrate {
namespace {

struct Started {
  base::Fd in, out, talk;
  base::Child child;
};

Started start(const std::vector<std::string>& argv) {
  base::Pipe to = base::make_pipe(), from = base::make_pipe();
  base::Fd talk(::memfd_create("transport", MFD_CLOEXEC));
  if (!talk) throw base::sys_error("cannot make a memory file");
  try {
    base::Child child = base::Child::start(argv, to.read.get(), from.write.get(), talk.get());
    return {std::move(from.read), std::move(to.write), std::move(talk), std::move(child)};
  } catch (base::Error& e) {
    throw std::move(e).hint("it is what reaches the other node: ssh, or what --rsh names");
  }
}

/// The last 4 KiB, in lines, without what could steer a terminal.
std::vector<std::string> last_lines(int fd) {
  std::array<char, 4096> end{};
  const off_t size = ::lseek(fd, 0, SEEK_END);
  const ssize_t got =
      ::pread(fd, end.data(), end.size(), std::max<off_t>(0, size - static_cast<off_t>(end.size())));
  std::istringstream text(std::string(end.data(), got > 0 ? static_cast<size_t>(got) : 0));
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) {
    line.erase(line.find_last_not_of(" \r") + 1);
    if (!line.empty()) lines.push_back(base::printable(std::move(line)));
  }
  return lines;
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
    : node_(node), rsh_(rsh), child_([&] {
        Started s = start(remote_argv(rsh, node, command));
        in_ = std::move(s.in);
        out_ = std::move(s.out);
        talk_ = std::move(s.talk);
        return std::move(s.child);
      }()) {}

void Transport::finish() {
  out_.close();
  child_.wait(std::chrono::seconds(10));
}

base::Error Transport::unreachable() {
  const auto status = child_.wait(std::chrono::seconds(1));
  const auto lines = last_lines(talk_.get());
  std::string why = lines.empty() ? "" : lines.back();
  if (why.empty())
    why = rsh_.front() + (status ? " ended with status " + std::to_string(*status) : " brought no answer");
  const std::string program = rsh_ == rsh_words("") ? "ssh" : base::quoted(rsh_);
  return base::error("cannot reach drover-node on {}: {}", node_, why)
      .hint("try `" + program + " " + node_ +
            " drover-node --version`: it must answer without asking for anything");
}

void Transport::pass_on_warnings() const {
  constexpr std::string_view kWarning = "warning: ";  // base/log.cc
  for (const std::string& line : last_lines(talk_.get()))
    if (line.starts_with(kWarning)) base::warn("{}: {}", node_, line.substr(kWarning.size()));
}

base::Error naming(const std::string& node, const base::Error& e) {
  constexpr std::string_view kOther = "the other node", kFailed = "the other node failed: ";
  constexpr std::string_view kRefused =
      "the other end refused: ";  // templates/transfer.cc: with its hint in brackets
  std::string text = e.message(), hint = e.hint();
  if (text.starts_with(kFailed) || text.starts_with(kRefused)) {
    if (size_t at = text.rfind(" (");
        text.starts_with(kRefused) && at != std::string::npos && text.ends_with(')')) {
      hint = text.substr(at + 2, text.size() - at - 3);
      text.erase(at);
    }
    text.erase(0, text.find(": ") + 2);
    if (!text.contains(node)) text.insert(0, node + ": ");
  } else if (text.starts_with(kOther)) {
    text.replace(0, kOther.size(), node);
  }
  base::Error named(std::move(text));
  for (const auto& context : e.contexts()) named.context(context);
  return std::move(named).hint(std::move(hint)).exit(e.exit());
}

}  // namespace migrate
