#pragma once
#include <nlohmann/json_fwd.hpp>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "migrate/level.h"

namespace migrate {

/// What a frame is about: its first byte on the wire (docs/formats/move-wire.md). A number is
/// never used twice. A new type needs a line here and one in kFrames below.
enum class Frame : uint8_t {
  kData = 1,     ///< a piece of a zstd stream
  kDataEnd = 2,  ///< the zstd stream before it is complete
  kFailed = 3,   ///< JSON {"error": sentence, "hint"?: text}: the sender of this gives up
  // A move; JSON, like all that follow.
  kHello = 16,      ///< source: the box, and what it needs
  kOffer = 17,      ///< destination: which layers it lacks; without any it is ready
  kLayers = 19,     ///< source: the layers are there now
  kNoise = 41,      ///< source: random bytes, to measure the wire
  kRound = 20,      ///< source: a round of the private layer follows as data
  kRoundDone = 21,  ///< destination: it is on disk
  kImages = 22,     ///< source: CRIU's images follow as data
  kPrepared = 23,   ///< destination: restored and frozen; the source decides
  kCommit = 24,     ///< source: it is yours
  kRunning = 25,    ///< destination: it runs
  kWant = 26,       ///< destination: these runs of pages; binary, as kPages (pages.h)
  kPages = 27,      ///< source: one of them
  kWhole = 28,      ///< destination: all memory is here
  kReady = 29,      ///< destination: it waits for the memory
  kStale = 30,      ///< source: these runs were written again; binary, as kWant
  kHere = 31,       ///< destination: nothing is wanted of the source any more
  // After a move was cut off.
  kAsk = 32,     ///< destination: whose is the box?
  kSettle = 33,  ///< source: so it was decided
  kAnswer = 34,
  // Memory, on a connection of its own.
  kMemory = 35,  ///< source: of this move
  kFetch = 36,   ///< destination: it broke; go on over this one
  kLane = 40,    ///< source: one more connection for it
  // When the box runs.
  kCaught = 38,  ///< source: frames that clients sent to the box while it was frozen; binary (caught.h)
};

struct FrameName {
  Frame type;
  std::string_view name;  ///< as messages say it
};
inline constexpr std::array kFrames = {
    FrameName{Frame::kData, "data"},     FrameName{Frame::kDataEnd, "end of data"},
    FrameName{Frame::kFailed, "failed"}, FrameName{Frame::kHello, "hello"},
    FrameName{Frame::kOffer, "offer"},   FrameName{Frame::kLayers, "layers"},
    FrameName{Frame::kRound, "round"},   FrameName{Frame::kRoundDone, "round done"},
    FrameName{Frame::kImages, "images"}, FrameName{Frame::kPrepared, "prepared"},
    FrameName{Frame::kCommit, "commit"}, FrameName{Frame::kRunning, "running"},
    FrameName{Frame::kWant, "want"},     FrameName{Frame::kPages, "pages"},
    FrameName{Frame::kWhole, "whole"},   FrameName{Frame::kAsk, "ask"},
    FrameName{Frame::kSettle, "settle"}, FrameName{Frame::kAnswer, "answer"},
    FrameName{Frame::kReady, "ready"},   FrameName{Frame::kMemory, "memory"},
    FrameName{Frame::kFetch, "fetch"},   FrameName{Frame::kCaught, "caught"},
    FrameName{Frame::kStale, "stale"},   FrameName{Frame::kHere, "here"},
    FrameName{Frame::kLane, "lane"},     FrameName{Frame::kNoise, "noise"},
};

/// nullopt: no such frame.
std::optional<std::string_view> frame_name(Frame type);

/// The longest payload, in both directions. A longer one is an Error before it is read.
inline constexpr size_t kMaxFrame = 1 << 20;

struct Message {
  Frame type;
  std::vector<std::byte> bytes;
};

/// Frames over two descriptors that it borrows: a byte for the type, 32 bits little-endian for
/// the length, the payload. For one thread.
///
/// Every wait has a deadline. Whatever the other side does wrong (silence, an end in the middle,
/// an unknown type, a length out of bounds) is an Error whose sentence begins with "the other
/// node"; a kFailed frame becomes an Error with the other node's own words. SIGPIPE is never
/// raised. While it lives both descriptors are non-blocking.
class Wire {
 public:
  /// `patience` is how long a send may make no progress at all.
  Wire(int in_fd, int out_fd, std::chrono::milliseconds patience = std::chrono::seconds(60));
  Wire(const Wire&) = delete;
  Wire& operator=(const Wire&) = delete;
  ~Wire();

  void send(Frame type, std::span<const std::byte> payload = {});
  void send_json(Frame type, const nlohmann::json& json);
  /// Tells the other node why we give up, once. Never throws: the connection may be what failed.
  void send_failed(std::string_view sentence, std::string_view hint = {}) noexcept;

  /// The next frame. `awaited` is for the sentence: "… closed the connection while we waited for AWAITED".
  Message recv(std::chrono::milliseconds timeout, std::string_view awaited = "its next message");
  /// The next frame must be of this type and hold one JSON object. Without `awaited` messages say the type.
  nlohmann::json expect_json(Frame type, std::chrono::milliseconds timeout, std::string_view awaited = {});

  /// For before a step that cannot be taken lightly: throws what the other node has said, or that it has
  /// closed the connection, as far as that is known here. Does not wait.
  void expect_silence();

  /// Called at least twice a second during every wait; may throw. For base::check_interrupt, until
  /// the commit point.
  void on_wait(std::function<void()> hook) { hook_ = std::move(hook); }

  [[nodiscard]] int input() const { return in_; }  ///< for poll(2)
  /// Bytes on the wire, heads of frames included.
  [[nodiscard]] uint64_t bytes_sent() const { return sent_; }
  [[nodiscard]] uint64_t bytes_received() const { return received_; }
  [[nodiscard]] uint64_t wire_bytes() const { return sent_ + received_; }
  /// How long sends had to wait until the other node, or what is between, took more.
  [[nodiscard]] std::chrono::nanoseconds waited() const { return waited_; }
  /// At which zstd packs what is sent here.
  Level& level() { return level_; }

 private:
  using Deadline = std::chrono::steady_clock::time_point;
  void write(std::span<const std::byte> bytes);
  void read(std::span<std::byte> out, Deadline deadline, std::string_view awaited);
  bool ready(int fd, short events, Deadline deadline);  ///< false: the deadline passed
  [[noreturn]] void fail_send(std::string sentence, int err);
  std::optional<base::Error> last_words();

  int in_, out_;
  int in_flags_, out_flags_;  ///< as they were before us
  std::chrono::milliseconds patience_;
  std::function<void()> hook_;
  std::atomic<uint64_t> sent_ = 0, received_ = 0;
  std::chrono::nanoseconds waited_{0};
  bool failed_ = false;  ///< the other node was told
  Level level_;
};

/// The JSON object in `message`; anything else in it is an Error.
nlohmann::json parse_json(const Message& message);

}  // namespace migrate
