#include "migrate/stream.h"

#include <zstd.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"

namespace migrate {
namespace {

using base::error;

constexpr size_t kFrameSize = 256 << 10;
constexpr int kWindowLog = 23;  // 8 MiB: more than any level up to 19 uses

size_t checked(size_t result, const char* what) {
  if (ZSTD_isError(result)) throw error("{}: {}", what, ZSTD_getErrorName(result));
  return result;
}

}  // namespace

struct ZstdSink::State {
  State(Wire& to, int level) : wire(to), context(ZSTD_createCCtx()) {
    if (!context) throw error("no memory for zstd");
    checked(ZSTD_CCtx_setParameter(context.get(), ZSTD_c_compressionLevel, level), "cannot set zstd's level");
    checked(ZSTD_CCtx_setParameter(context.get(), ZSTD_c_checksumFlag, 1), "cannot set zstd's checksum");
    frame.resize(kFrameSize);
  }

  void compress(std::span<const std::byte> bytes, ZSTD_EndDirective how) {
    ZSTD_inBuffer in = {bytes.data(), bytes.size(), 0};
    while (true) {
      ZSTD_outBuffer out = {frame.data(), frame.size(), filled};
      size_t left = checked(ZSTD_compressStream2(context.get(), &out, &in, how), "cannot compress");
      filled = out.pos;
      if (filled == frame.size()) send();
      if (how == ZSTD_e_end ? left == 0 : in.pos == in.size) return;
    }
  }

  void send() {
    if (filled > 0) wire.send(Frame::kData, std::span(frame).first(filled));
    filled = 0;
  }

  Wire& wire;
  std::unique_ptr<ZSTD_CCtx, decltype([](ZSTD_CCtx* c) { ZSTD_freeCCtx(c); })> context;
  std::vector<std::byte> frame;
  size_t filled = 0;
  uint64_t in_bytes = 0;
};

ZstdSink::ZstdSink(Wire& wire, int level) : state_(std::make_unique<State>(wire, level)) {}
ZstdSink::~ZstdSink() = default;

void ZstdSink::write(std::span<const std::byte> bytes) {
  state_->in_bytes += bytes.size();
  state_->compress(bytes, ZSTD_e_continue);
}

void ZstdSink::finish() {
  state_->compress({}, ZSTD_e_end);
  state_->send();
  state_->wire.send(Frame::kDataEnd);
}

uint64_t ZstdSink::bytes_in() const { return state_->in_bytes; }

struct ZstdSource::State {
  State(Wire& from, std::chrono::milliseconds longest)
      : wire(from), timeout(longest), context(ZSTD_createDCtx()) {
    if (!context) throw error("no memory for zstd");
    checked(ZSTD_DCtx_setParameter(context.get(), ZSTD_d_windowLogMax, kWindowLog),
            "cannot set zstd's window");
    plain.resize(ZSTD_DStreamOutSize());
  }

  /// The next frame into `in`; false at kDataEnd.
  bool next_frame() {
    if (ended) return false;
    frame = wire.recv(timeout, "more data");
    if (frame.type == Frame::kData && frame.bytes.empty())
      throw error("the other node sent a frame of data without data");
    if (frame.type != Frame::kData && frame.type != Frame::kDataEnd)
      throw error("the other node sent \"{}\" in the middle of data", *frame_name(frame.type));
    if (frame.type == Frame::kDataEnd && !frame.bytes.empty())
      throw error("the other node sent an end of data that holds {} bytes", frame.bytes.size());
    in = {frame.bytes.data(), frame.bytes.size(), 0};
    ended = frame.type == Frame::kDataEnd;
    return !ended;
  }

  /// Decompresses into `to` at least one byte; 0: the stream has ended.
  size_t decompress(std::span<std::byte> to) {
    ZSTD_outBuffer out = {to.data(), to.size(), 0};
    while (out.pos == 0) {
      if (complete) {
        if (in.pos < in.size || next_frame())
          throw error("the other node sent data behind the end of its zstd stream");
        return 0;
      }
      // A full window may still hold output when the input is used up, so it is asked before a frame is
      // awaited.
      size_t had = in.pos;
      size_t left = checked(ZSTD_decompressStream(context.get(), &out, &in),
                            "the other node's data cannot be decompressed");
      complete = left == 0;
      if (out.pos == 0 && !complete && in.pos == had && in.pos == in.size && !next_frame())
        throw error("the other node ended its data in the middle");
    }
    return out.pos;
  }

  Wire& wire;
  std::chrono::milliseconds timeout;
  std::unique_ptr<ZSTD_DCtx, decltype([](ZSTD_DCtx* d) { ZSTD_freeDCtx(d); })> context;
  Message frame{};
  ZSTD_inBuffer in = {nullptr, 0, 0};
  std::vector<std::byte> plain;  ///< for small reads
  size_t plain_at = 0, plain_end = 0;
  bool complete = false;  ///< zstd has seen the end of its stream
  bool ended = false;     ///< kDataEnd was taken off the wire
};

ZstdSource::ZstdSource(Wire& wire, std::chrono::milliseconds timeout)
    : state_(std::make_unique<State>(wire, timeout)) {}
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
    if (got == 0) throw error("the other node ended its data too early");
    out = out.subspan(got);
  }
}

void ZstdSource::finish() {
  State& s = *state_;
  if (s.plain_at != s.plain_end || s.decompress(s.plain) != 0)
    throw error("the other node sent more data than was due");
}

}  // namespace migrate
