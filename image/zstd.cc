#include "image/zstd.h"

#include <zstd.h>

#include <vector>

#include "base/error.h"

namespace image {
namespace {

constexpr size_t kPiece = 128 << 10;

size_t checked(size_t result, const char* what) {
  if (ZSTD_isError(result)) throw base::error("{}: {}", what, ZSTD_getErrorName(result));
  return result;
}

}  // namespace

struct Packer::State {
  void set(ZSTD_cParameter parameter, int value) {
    checked(ZSTD_CCtx_setParameter(context.get(), parameter, value), "cannot set up zstd");
  }

  void pack(std::span<const std::byte> bytes, ZSTD_EndDirective how) {
    ZSTD_inBuffer in = {bytes.data(), bytes.size(), 0};
    while (true) {
      size_t at = frame.size();
      frame.resize(at + kPiece);
      ZSTD_outBuffer out = {frame.data() + at, kPiece, 0};
      size_t left = checked(ZSTD_compressStream2(context.get(), &out, &in, how), "cannot compress");
      frame.resize(at + out.pos);
      if (how == ZSTD_e_end ? left == 0 : in.pos == in.size) return;
    }
  }

  std::unique_ptr<ZSTD_CCtx, decltype([](ZSTD_CCtx* c) { ZSTD_freeCCtx(c); })> context{ZSTD_createCCtx()};
  std::string frame;
};

Packer::Packer(int level, int window_log, std::span<const std::byte> prefix, uint64_t bytes)
    : state_(std::make_unique<State>()) {
  if (!state_->context) throw base::error("no memory for zstd");
  state_->set(ZSTD_c_compressionLevel, level);
  state_->set(ZSTD_c_windowLog, window_log);
  if (!prefix.empty()) {
    state_->set(ZSTD_c_enableLongDistanceMatching, 1);
    checked(ZSTD_CCtx_refPrefix(state_->context.get(), prefix.data(), prefix.size()), "cannot set up zstd");
  }
  checked(ZSTD_CCtx_setPledgedSrcSize(state_->context.get(), bytes), "cannot set up zstd");
}
Packer::~Packer() = default;

void Packer::add(std::span<const std::byte> bytes) { state_->pack(bytes, ZSTD_e_continue); }

std::string Packer::finish() {
  state_->pack({}, ZSTD_e_end);
  return std::move(state_->frame);
}

struct Unpacker::State {
  Source source;
  std::unique_ptr<ZSTD_DCtx, decltype([](ZSTD_DCtx* d) { ZSTD_freeDCtx(d); })> context{ZSTD_createDCtx()};
  std::vector<std::byte> packed = std::vector<std::byte>(kPiece);
  ZSTD_inBuffer in = {packed.data(), 0, 0};
  bool complete = false;  ///< the frame's end has been seen
  bool ended = false;     ///< the source has nothing more

  void fill() {
    in = {packed.data(), source(packed), 0};
    ended = in.size == 0;
  }
};

Unpacker::Unpacker(Source source, int window_log, std::span<const std::byte> prefix)
    : state_(std::make_unique<State>(std::move(source))) {
  ZSTD_DCtx* context = state_->context.get();
  if (context == nullptr) throw base::error("no memory for zstd");
  checked(ZSTD_DCtx_setParameter(context, ZSTD_d_windowLogMax, window_log), "cannot set up zstd");
  checked(ZSTD_DCtx_refPrefix(context, prefix.data(), prefix.size()), "cannot set up zstd");
}
Unpacker::~Unpacker() = default;

void Unpacker::read_exact(std::span<std::byte> bytes) {
  State& s = *state_;
  ZSTD_outBuffer out = {bytes.data(), bytes.size(), 0};
  while (out.pos < out.size) {
    if (s.complete) throw base::error("the delta's data ends too early");
    size_t had = out.pos, read = s.in.pos;
    s.complete = checked(ZSTD_decompressStream(s.context.get(), &out, &s.in),
                         "the delta's data cannot be decompressed") == 0;
    if (s.complete || out.pos > had || s.in.pos > read) continue;
    if (s.ended) throw base::error("the delta's data ends too early");
    s.fill();
  }
}

void Unpacker::finish() {
  State& s = *state_;
  std::byte more[1];
  while (!s.complete) {
    ZSTD_outBuffer out = {more, sizeof more, 0};
    size_t read = s.in.pos;
    s.complete = checked(ZSTD_decompressStream(s.context.get(), &out, &s.in),
                         "the delta's data cannot be decompressed") == 0;
    if (out.pos > 0) throw base::error("the delta's data goes on where its part ends");
    if (s.complete || s.in.pos > read) continue;
    if (s.ended) throw base::error("the delta's data ends too early");
    s.fill();
  }
  if (s.in.pos == s.in.size && !s.ended) s.fill();
  if (s.in.pos < s.in.size) throw base::error("the delta's data goes on where its part ends");
}

}  // namespace image
