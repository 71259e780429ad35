#include "migrate/stream.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/error.h"

namespace migrate {
namespace {

using base::error;
using Clock = std::chrono::steady_clock;

constexpr uint64_t kLook = 64 << 10;  // so often it is asked how the wire does
constexpr int kWindowLog = 23;        // 8 MiB: more than any level up to 19 uses

size_t checked(size_t result, const char* what) {
  if (ZSTD_isError(result)) throw error("{}: {}", what, ZSTD_getErrorName(result));
  return result;
}

using Compressor = std::unique_ptr<ZSTD_CCtx, decltype([](ZSTD_CCtx* c) { ZSTD_freeCCtx(c); })>;

class WireSink : public PieceSink {
 public:
  explicit WireSink(Wire& wire) : wire_(wire) {}
  void piece(std::span<const std::byte> bytes) override { wire_.send(Frame::kData, bytes); }
  void end() override { wire_.send(Frame::kDataEnd); }

 private:
  Wire& wire_;
};

class WireSource : public PieceSource {
 public:
  WireSource(Wire& wire, std::chrono::milliseconds timeout) : wire_(wire), timeout_(timeout) {}
  std::span<const std::byte> next() override {
    frame_ = wire_.recv(timeout_, "more data");
    if (frame_.type == Frame::kData && frame_.bytes.empty())
      throw error("the other node sent a frame of data without data");
    if (frame_.type != Frame::kData && frame_.type != Frame::kDataEnd)
      throw error("the other node sent \"{}\" in the middle of data", *frame_name(frame_.type));
    if (frame_.type == Frame::kDataEnd && !frame_.bytes.empty())
      throw error("the other node sent an end of data that holds {} bytes", frame_.bytes.size());
    return frame_.bytes;
  }
  [[nodiscard]] std::string who() const override { return "the other node"; }

 private:
  Wire& wire_;
  std::chrono::milliseconds timeout_;
  Message frame_{};
};

}  // namespace

struct BlockPacker::State {
  Compressor context{ZSTD_createCCtx()};
};

BlockPacker::BlockPacker() : state_(std::make_unique<State>()) {
  if (!state_->context) throw error("no memory for zstd");
}
BlockPacker::~BlockPacker() = default;

void BlockPacker::pack(std::span<const std::byte> bytes, int level, std::vector<std::byte>& out) {
  const size_t at = out.size();
  out.resize(at + ZSTD_compressBound(bytes.size()));
  out.resize(at + checked(ZSTD_compressCCtx(state_->context.get(), out.data() + at, out.size() - at,
                                            bytes.data(), bytes.size(), level),
                          "cannot compress"));
}

void decompress_block(std::span<const std::byte> packed, std::span<std::byte> out) {
  const size_t got = checked(ZSTD_decompress(out.data(), out.size(), packed.data(), packed.size()),
                             "the other node's data cannot be decompressed");
  if (got != out.size()) throw error("the other node sent {} bytes where {} were due", got, out.size());
}

struct ZstdSink::State {
  State(std::unique_ptr<PieceSink> own, PieceSink& pieces, int level)
      : owned(std::move(own)), to(pieces), context(ZSTD_createCCtx()) {
    if (!context) throw error("no memory for zstd");
    set_level(level);
    checked(ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1), "cannot set zstd's checksum");
    frame.resize(kMaxPiece);
  }

  void set_level(int level) {
    checked(ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level), "cannot set zstd's level");
    at_level = level;
  }

  void compress(std::span<const std::byte> bytes, ZSTD_EndDirective how) {
    ZSTD_inBuffer in = {bytes.data(), bytes.size(), 0};
    while (true) {
      ZSTD_outBuffer out = {frame.data(), frame.size(), filled};
      const auto start = Clock::now();
      size_t left = checked(ZSTD_compressStream2(context.get(), &out, &in, how), "cannot compress");
      spent.packing += Clock::now() - start;
      spent.out += out.pos - filled;
      filled = out.pos;
      if (filled == frame.size()) send();
      if (how == ZSTD_e_end ? left == 0 : in.pos == in.size) return;
    }
  }

  /// Takes the level that the wire has come to. zstd changes it only between two of its frames.
  void follow(size_t bytes) {
    if ((spent.in += bytes) < kLook) return;
    const auto now = Clock::now();
    spent.waiting = wire->waited() - std::exchange(waited, wire->waited());
    spent.all = now - std::exchange(since, now);
    wire->level().sent(std::exchange(spent, {}));
    if (wire->level().now() == at_level) return;
    compress({}, ZSTD_e_end);
    set_level(wire->level().now());
  }

  void send() {
    if (filled > 0) to.piece(std::span(frame).first(filled));
    filled = 0;
  }

  std::unique_ptr<PieceSink> owned;
  PieceSink& to;
  Compressor context;
  std::vector<std::byte> frame;
  size_t filled = 0;
  uint64_t in_bytes = 0;
  int at_level = 0;
  Wire* wire = nullptr;  ///< whose level is followed
  Level::Spent spent{};  ///< since it was told
  Clock::time_point since = Clock::now();
  std::chrono::nanoseconds waited{0};  ///< wire's, then
};

ZstdSink::ZstdSink(Wire& wire) {
  auto to = std::make_unique<WireSink>(wire);
  PieceSink& pieces = *to;
  state_ = std::make_unique<State>(std::move(to), pieces, wire.level().now());
  state_->wire = &wire;
  state_->waited = wire.waited();
}
ZstdSink::ZstdSink(PieceSink& to, int level) : state_(std::make_unique<State>(nullptr, to, level)) {}
ZstdSink::~ZstdSink() = default;

void ZstdSink::write(std::span<const std::byte> bytes) {
  state_->in_bytes += bytes.size();
  state_->compress(bytes, ZSTD_e_continue);
  if (state_->wire) state_->follow(bytes.size());
}

void ZstdSink::finish() {
  state_->compress({}, ZSTD_e_end);
  state_->send();
  state_->to.end();
}

uint64_t ZstdSink::bytes_in() const { return state_->in_bytes; }

struct ZstdSource::State {
  State(std::unique_ptr<PieceSource> own, PieceSource& pieces)
      : owned(std::move(own)), from(pieces), context(ZSTD_createDCtx()) {
    if (!context) throw error("no memory for zstd");
    checked(ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kWindowLog),
            "cannot set zstd's window");
    plain.resize(ZSTD_DStreamOutSize());
  }

  /// The next piece into `in`; false at the end.
  bool next_piece() {
    if (ended) return false;
    const auto piece = from.next();
    in = {piece.data(), piece.size(), 0};
    ended = piece.empty();
    return !ended;
  }

  /// Decompresses into `to` at least one byte; 0: the stream has ended.
  size_t decompress(std::span<std::byte> to) {
    ZSTD_outBuffer out = {to.data(), to.size(), 0};
    while (out.pos == 0) {
      // One frame ends where the next one begins, or the stream.
      if (complete && in.pos == in.size && !next_piece()) return 0;
      // A full window may still hold output when the input is used up, so it is asked before a frame is
      // awaited.
      size_t had = in.pos;
      size_t left = ZSTD_decompressStream(context.get(), &out, &in);
      if (ZSTD_isError(left))
        throw error("{}'s data cannot be decompressed: {}", from.who(), ZSTD_getErrorName(left));
      complete = left == 0;
      if (out.pos == 0 && !complete && in.pos == had && in.pos == in.size && !next_piece())
        throw error("{} ended its data in the middle", from.who());
    }
    return out.pos;
  }

  std::unique_ptr<PieceSource> owned;
  PieceSource& from;
  std::unique_ptr<ZSTD_DCtx, decltype([](ZSTD_DCtx* d) { ZSTD_freeDCtx(d); })> context;
  ZSTD_inBuffer in = {nullptr, 0, 0};
  std::vector<std::byte> plain;  ///< for small reads
  size_t plain_at = 0, plain_end = 0;
  bool complete = false;  ///< zstd has seen the end of its frame
  bool ended = false;     ///< there are no more pieces
};

ZstdSource::ZstdSource(Wire& wire, std::chrono::milliseconds timeout) {
  auto from = std::make_unique<WireSource>(wire, timeout);
  PieceSource& pieces = *from;
  state_ = std::make_unique<State>(std::move(from), pieces);
}
ZstdSource::ZstdSource(PieceSource& from) : state_(std::make_unique<State>(nullptr, from)) {}
ZstdSource::~ZstdSource() = default;

void ZstdSource::read_exact(std::span<std::byte> out) {
  State& s = *state_;
  while (!out.empty()) {
    size_t got = 0;
    if (s.plain_at == s.plain_end && out.size() >= s.plain.size()) {
      got = s.decompress(out);
    } else {
      if (s.plain_at == s.plain_end) {
        s.plain_at = 0;
        s.plain_end = s.decompress(s.plain);
      }
      got = std::min(out.size(), s.plain_end - s.plain_at);
      std::memcpy(out.data(), s.plain.data() + s.plain_at, got);
      s.plain_at += got;
    }
    if (got == 0) throw error("{} ended its data too early", s.from.who());
    out = out.subspan(got);
  }
}

void ZstdSource::finish() {
  State& s = *state_;
  if (s.plain_at != s.plain_end || s.decompress(s.plain) != 0)
    throw error("{} sent more data than was due", s.from.who());
}

}  // namespace migrate
