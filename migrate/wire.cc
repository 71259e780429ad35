#include "migrate/wire.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace migrate {
namespace {

using base::error;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr size_t kHead = 5;  // type and length
constexpr milliseconds kSlice(500);
constexpr milliseconds kLastWords(1000);

/// A write into a closed pipe must not end the program, and a library must not change what
/// SIGPIPE does to it or to its children: the signal is blocked in this thread for the write,
/// and taken away if it came.
class NoSigpipe {
 public:
  NoSigpipe() {
    sigemptyset(&sigpipe_);
    sigaddset(&sigpipe_, SIGPIPE);
    sigset_t pending;
    sigpending(&pending);
    was_pending_ = sigismember(&pending, SIGPIPE) == 1;
    pthread_sigmask(SIG_BLOCK, &sigpipe_, &before_);
  }
  NoSigpipe(const NoSigpipe&) = delete;
  NoSigpipe& operator=(const NoSigpipe&) = delete;
  ~NoSigpipe() {
    constexpr timespec kNow = {};
    if (!was_pending_)
      while (sigtimedwait(&sigpipe_, nullptr, &kNow) == -1 && errno == EINTR) {
      }
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

 private:
  sigset_t sigpipe_, before_;
  bool was_pending_ = false;
};

int make_non_blocking(int fd) {
  int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    throw base::sys_error("cannot prepare the connection to the other node");
  return flags;
}

/// What the other node says is shown to a person: no control characters, not without end.
std::string shown(std::string text) {
  constexpr size_t kLongest = 2000;
  if (text.size() > kLongest) text.resize(kLongest);
  return base::printable(std::move(text));
}

std::string text_of(const nlohmann::json& object, const char* key) {
  auto found = object.find(key);
  return found != object.end() && found->is_string() ? shown(found->get<std::string>()) : "";
}

[[noreturn]] void throw_failed(const Message& message) {
  nlohmann::json said = parse_json(message);
  auto failed = error("the other node failed: {}", text_of(said, "error"));
  if (std::string hint = text_of(said, "hint"); !hint.empty()) throw std::move(failed).hint(std::move(hint));
  throw std::move(failed);
}

std::string seconds(milliseconds time) {
  return std::format("{:.3g} s", static_cast<double>(time.count()) / 1000);
}

}  // namespace

std::optional<std::string_view> frame_name(Frame type) {
  const auto* found = std::ranges::find(kFrames, type, &FrameName::type);
  return found == kFrames.end() ? std::nullopt : std::optional(found->name);
}

Wire::Wire(int in_fd, int out_fd, milliseconds patience)
    : in_(in_fd), out_(out_fd), in_flags_(make_non_blocking(in_fd)), patience_(patience) {
  out_flags_ = out_ == in_ ? in_flags_ : make_non_blocking(out_fd);
}

Wire::~Wire() {
  ::fcntl(in_, F_SETFL, in_flags_);
  ::fcntl(out_, F_SETFL, out_flags_);
}

bool Wire::ready(int fd, short events, Deadline deadline) {
  while (true) {
    auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
    if (left <= milliseconds(0)) return false;
    pollfd waited = {.fd = fd, .events = events, .revents = 0};
    int got = ::poll(&waited, 1, static_cast<int>(std::min(left, kSlice).count()));
    if (got > 0) return true;  // an error shows itself in the read or write that follows
    if (got < 0 && errno != EINTR) throw base::sys_error("cannot wait for the other node");
    if (hook_) hook_();
  }
}

void Wire::write(std::span<const std::byte> bytes) {
  NoSigpipe guard;
  while (!bytes.empty()) {
    ssize_t put = ::write(out_, bytes.data(), bytes.size());
    if (put > 0) {
      bytes = bytes.subspan(static_cast<size_t>(put));
      sent_ += static_cast<uint64_t>(put);
    } else if (errno == EAGAIN) {
      const auto start = steady_clock::now();
      const bool taken = ready(out_, POLLOUT, start + patience_);
      waited_ += steady_clock::now() - start;
      if (!taken) fail_send(std::format("the other node has taken nothing for {}", seconds(patience_)), 0);
    } else if (errno != EINTR) {
      int err = errno;
      if (err == EPIPE || err == ECONNRESET)
        fail_send("the other node closed the connection while we sent to it", 0);
      fail_send("cannot send to the other node", err);
    }
  }
}

/// Where the other node gave up, it may have said why before it closed.
void Wire::fail_send(std::string sentence, int err) {
  if (auto why = last_words()) throw std::move(*why);
  throw base::Error(std::move(sentence), err);
}

std::optional<base::Error> Wire::last_words() {
  auto deadline = steady_clock::now() + kLastWords;
  try {
    while (true) {
      auto left = std::chrono::ceil<milliseconds>(deadline - steady_clock::now());
      Message message = recv(left, "its reason");
      // What it said before it failed is of no more use.
    }
  } catch (const base::Error& e) {
    if (e.message().starts_with("the other node failed")) return e;
  }
  return std::nullopt;
}

void Wire::send(Frame type, std::span<const std::byte> payload) {
  if (payload.size() > kMaxFrame)
    throw error("a frame \"{}\" of {} bytes is more than the {} that the other node takes",
                frame_name(type).value_or("?"), payload.size(), kMaxFrame);
  auto length = static_cast<uint32_t>(payload.size());
  std::array<std::byte, kHead> head = {std::byte(type)};
  for (size_t i = 0; i < 4; ++i) head[1 + i] = std::byte(length >> (8 * i));
  write(head);
  write(payload);
}

void Wire::send_json(Frame type, const nlohmann::json& json) {
  std::string text;
  try {
    text = json.dump();
  } catch (const nlohmann::json::exception& e) {
    throw error("cannot write \"{}\" as JSON: {}", frame_name(type).value_or("?"), e.what());
  }
  send(type, std::as_bytes(std::span(text)));
}

void Wire::send_failed(std::string_view sentence, std::string_view hint) noexcept {
  if (std::exchange(failed_, true)) return;
  try {
    nlohmann::json json = {{"error", sentence}};
    if (!hint.empty()) json["hint"] = hint;
    std::string text = json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    send(Frame::kFailed, std::as_bytes(std::span(text)));
  } catch (...) {
    // The caller is about to report the first failure; a second one adds nothing.
  }
}

void Wire::read(std::span<std::byte> out, Deadline deadline, std::string_view awaited) {
  size_t done = 0;
  while (done < out.size()) {
    ssize_t got = ::read(in_, out.data() + done, out.size() - done);
    if (got > 0) {
      done += static_cast<size_t>(got);
      received_ += static_cast<uint64_t>(got);
    } else if (got == 0 || errno == ECONNRESET) {
      throw error("the other node closed the connection while we waited for {}", awaited);
    } else if (errno == EAGAIN) {
      if (!ready(in_, POLLIN, deadline))
        throw error("the other node was silent while we waited for {}", awaited);
    } else if (errno != EINTR) {
      throw base::sys_error("cannot read from the other node");
    }
  }
}

Message Wire::recv(milliseconds timeout, std::string_view awaited) {
  auto deadline = steady_clock::now() + timeout;
  std::array<std::byte, kHead> head;
  read(head, deadline, awaited);
  Message message{.type = Frame(head[0]), .bytes = {}};
  size_t length = 0;
  for (size_t i = 0; i < 4; ++i) length |= std::to_integer<size_t>(head[1 + i]) << (8 * i);
  if (!frame_name(message.type))
    throw error("the other node sent a frame of the unknown type {} while we waited for {}",
                std::to_integer<unsigned>(head[0]), awaited);
  if (length > kMaxFrame)
    throw error("the other node announced a frame \"{}\" of {} bytes, more than the {} that are allowed",
                *frame_name(message.type), length, kMaxFrame);
  message.bytes.resize(length);
  read(message.bytes, deadline, awaited);
  if (message.type == Frame::kFailed) throw_failed(message);
  return message;
}

nlohmann::json Wire::expect_json(Frame type, milliseconds timeout, std::string_view awaited) {
  const std::string name = std::format("\"{}\"", frame_name(type).value_or("?"));
  Message message = recv(timeout, awaited.empty() ? name : awaited);
  if (message.type != type)
    throw error("the other node sent \"{}\" where {} was due", *frame_name(message.type), name);
  return parse_json(message);
}

void Wire::expect_silence() {
  pollfd heard = {.fd = in_, .events = POLLIN, .revents = 0};
  if (::poll(&heard, 1, 0) <= 0) return;
  Message message = recv(kLastWords);
  throw error("the other node sent \"{}\" where nothing was due", *frame_name(message.type));
}

nlohmann::json parse_json(const Message& message) {
  const char* text = reinterpret_cast<const char*>(message.bytes.data());
  auto json = nlohmann::json::parse(text, text + message.bytes.size(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object())
    throw error("the other node sent a frame \"{}\" that holds no JSON object",
                frame_name(message.type).value_or("?"));
  return json;
}

}  // namespace migrate
