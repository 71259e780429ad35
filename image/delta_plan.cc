#include "image/delta_plan.h"

#include <algorithm>
#include <string_view>

namespace image {
namespace {

using Kind = DeltaOp::Kind;

bool same(Bytes a, Bytes b) { return std::ranges::equal(a, b); }

bool is_zero(Bytes block) {
  return block[0] == std::byte{0} && same(block.first(block.size() - 1), block.subspan(1));
}

size_t hash_of(Bytes block) {
  return std::hash<std::string_view>()({reinterpret_cast<const char*>(block.data()), block.size()});
}

}  // namespace

void BlockIndex::add(uint8_t source, Bytes bytes) {
  sources_[source] = bytes;
  for (uint64_t at = 0; at + block_ <= bytes.size(); at += block_) {
    Bytes block = bytes.subspan(at, block_);
    if (!is_zero(block)) places_.try_emplace(hash_of(block), Place{.source = source, .offset = at});
  }
}

const BlockIndex::Place* BlockIndex::find(Bytes block) const {
  auto found = places_.find(hash_of(block));
  return found != places_.end() && holds(found->second, block) ? &found->second : nullptr;
}

bool BlockIndex::holds(const Place& place, Bytes block) const {
  Bytes bytes = sources_.at(place.source);
  return place.offset + block.size() <= bytes.size() &&
         same(bytes.subspan(place.offset, block.size()), block);
}

std::vector<PlannedStep> plan(Bytes part, const BlockIndex& index) {
  std::vector<PlannedStep> steps;
  for (uint64_t at = 0; at < part.size();) {
    Bytes block = part.subspan(at, std::min<uint64_t>(index.block(), part.size() - at));
    bool whole = block.size() == index.block();
    DeltaOp op = {.kind = Kind::kNew, .length = block.size()};
    DeltaOp* last = steps.empty() ? nullptr : &steps.back().op;
    bool goes_on = last != nullptr && last->kind == Kind::kCopy &&
                   index.holds({.source = last->source, .offset = last->offset + last->length}, block);
    if (is_zero(block)) {
      op.kind = Kind::kZeros;
    } else if (goes_on) {
      op = {.kind = Kind::kCopy,
            .source = last->source,
            .offset = last->offset + last->length,
            .length = block.size()};
    } else if (const BlockIndex::Place* place = whole ? index.find(block) : nullptr) {
      op = {.kind = Kind::kCopy, .source = place->source, .offset = place->offset, .length = block.size()};
    }
    if (last != nullptr && last->kind == op.kind && (op.kind != Kind::kCopy || goes_on))
      last->length += block.size();
    else
      steps.push_back({.op = op, .at = at});
    at += block.size();
  }
  return steps;
}

}  // namespace image
