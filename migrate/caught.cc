#include "migrate/caught.h"

#include <algorithm>

#include "base/error.h"

namespace migrate {
namespace {

constexpr size_t kOffload = sizeof(box::CaughtFrame::offload);
constexpr size_t kHead = kOffload + 4;

static_assert(box::kMostFrameBytes + box::kMostFrames * kHead <= kMaxFrame);

}  // namespace

std::vector<std::byte> encode_caught(std::span<const box::CaughtFrame> frames) {
  std::vector<std::byte> out;
  for (const auto& frame : frames) {
    out.insert(out.end(), frame.offload.begin(), frame.offload.end());
    for (int i = 0; i < 4; ++i) out.push_back(std::byte(frame.bytes.size() >> (8 * i)));
    out.insert(out.end(), frame.bytes.begin(), frame.bytes.end());
  }
  return out;
}

std::vector<box::CaughtFrame> parse_caught(const Message& message) {
  std::vector<box::CaughtFrame> frames;
  for (std::span<const std::byte> left(message.bytes); !left.empty();) {
    if (frames.size() == box::kMostFrames || left.size() < kHead)
      throw base::error("the other node sent frames for the box that cannot be right");
    box::CaughtFrame frame;
    std::copy_n(left.begin(), kOffload, frame.offload.begin());
    size_t length = 0;
    for (size_t i = 0; i < 4; ++i) length |= std::to_integer<size_t>(left[kOffload + i]) << (8 * i);
    left = left.subspan(kHead);
    if (length < box::kShortestFrame || length > box::kLongestFrame || length > left.size())
      throw base::error("the other node sent a frame for the box of {} bytes, which cannot be right", length);
    frame.bytes.assign(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(length));
    frames.push_back(std::move(frame));
    left = left.subspan(length);
  }
  return frames;
}

}  // namespace migrate
