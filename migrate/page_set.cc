#include "migrate/page_set.h"

#include <dirent.h>
#include <fcntl.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <string_view>

#include "base/error.h"
#include "base/fd.h"
#include "migrate/pages.h"

namespace migrate {

using base::error;

// --- PageSet

void PageSet::add(uint64_t begin, uint64_t end) {
  drop(begin, end);
  if (begin < end) pieces_[begin] = {end, 0};
}

std::optional<uint64_t> PageSet::origin(uint64_t address) const {
  if (!moved_) {
    auto piece = first_in(address, address + 1);
    return piece ? std::optional(address) : std::nullopt;
  }
  for (const auto& [begin, rest] : pieces_)
    if (address - (begin + rest.offset) < rest.end - begin) return address - rest.offset;
  return std::nullopt;
}

std::optional<PageSet::Piece> PageSet::first_in(uint64_t begin, uint64_t end) const {
  if (begin >= end) return std::nullopt;
  auto piece = pieces_.upper_bound(begin);
  if (piece != pieces_.begin() && std::prev(piece)->second.end > begin) --piece;
  if (piece == pieces_.end() || piece->first >= end) return std::nullopt;
  const uint64_t from = std::max(begin, piece->first);
  return Piece{from, std::min(end, piece->second.end), from + piece->second.offset};
}

void PageSet::drop(uint64_t begin, uint64_t end) {
  while (auto piece = first_in(begin, end)) {
    auto found = std::prev(pieces_.upper_bound(piece->begin));
    const uint64_t first = found->first;
    const Rest rest = found->second;
    pieces_.erase(found);
    if (first < piece->begin) pieces_[first] = {piece->begin, rest.offset};
    if (piece->end < rest.end) pieces_[piece->end] = rest;
  }
}

void PageSet::drop_now(uint64_t begin, uint64_t end) {
  if (!moved_) return drop(begin, end);
  const auto pieces = pieces_;
  for (const auto& [first, rest] : pieces) {
    const uint64_t now = first + rest.offset, now_end = rest.end + rest.offset;
    if (now < end && begin < now_end)
      drop(std::max(now, begin) - rest.offset, std::min(now_end, end) - rest.offset);
  }
}

void PageSet::move(uint64_t from, uint64_t to, uint64_t length) {
  const auto pieces = pieces_;
  for (const auto& [first, rest] : pieces) {
    const uint64_t now = first + rest.offset, now_end = rest.end + rest.offset;
    if (now >= from + length || from >= now_end) continue;
    const uint64_t begin = std::max(now, from) - rest.offset,
                   end = std::min(now_end, from + length) - rest.offset;
    drop(begin, end);
    pieces_[begin] = {end, rest.offset + to - from};
    moved_ = true;
  }
}

uint64_t PageSet::bytes() const {
  uint64_t sum = 0;
  for (const auto& [begin, rest] : pieces_) sum += rest.end - begin;
  return sum;
}

// --- CRIU's images

namespace {

// criu/include/magic.h and pagemap.h, images/pagemap.proto (CRIU 4.2).
constexpr uint32_t kImageMagic = 0x54564319, kPagemapMagic = 0x56084025;
constexpr uint64_t kLazyFlag = 1 << 1, kPresentFlag = 1 << 2;

/// The few kinds of field that a pagemap entry has (protobuf's wire format).
class Fields {
 public:
  explicit Fields(std::string_view bytes) : bytes_(bytes) {}
  /// The next field's number and value; false at the end.
  bool next(uint64_t& number, uint64_t& value) {
    if (bytes_.empty()) return false;
    const uint64_t key = varint();
    if ((key & 7) != 0) throw error("an image of CRIU's has a field of kind {} in its pagemap", key & 7);
    number = key >> 3;
    value = varint();
    return true;
  }

 private:
  uint64_t varint() {
    uint64_t number = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      if (bytes_.empty()) break;
      const auto byte = static_cast<uint8_t>(bytes_.front());
      bytes_.remove_prefix(1);
      number |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if ((byte & 0x80) == 0) return number;
    }
    throw error("an image of CRIU's has a number in its pagemap that does not end");
  }
  std::string_view bytes_;
};

PageSet parse_pagemap(std::string_view image) {
  auto word = [&] {
    uint32_t number = 0;
    if (image.size() < sizeof number) throw error("an image of CRIU's ends in the middle of its pagemap");
    std::memcpy(&number, image.data(), sizeof number);
    image.remove_prefix(sizeof number);
    return number;
  };
  const uint32_t image_magic = word(), pagemap_magic = word();
  if (image_magic != kImageMagic || pagemap_magic != kPagemapMagic)
    throw error("an image of CRIU's is no pagemap");
  PageSet missing;
  for (bool head = true; !image.empty(); head = false) {
    const uint32_t size = word();
    if (size > image.size()) throw error("an image of CRIU's ends in the middle of its pagemap");
    Fields fields(image.substr(0, size));
    image.remove_prefix(size);
    if (head) continue;
    uint64_t address = 0, pages = 0, more = 0, flags = 0;
    for (uint64_t number = 0, value = 0; fields.next(number, value);) {
      if (number == 1) address = value;
      if (number == 2) pages = value;  // what fits into 32 bits
      if (number == 4) flags = value;
      if (number == 5) more = value;
    }
    pages = std::max(pages, more);
    if (address % kPageSize != 0 || address >> 56 != 0 || pages > (uint64_t{1} << 44))
      throw error("an image of CRIU's has {} pages at {:#x} in its pagemap", pages, address);
    if ((flags & kLazyFlag) != 0 && (flags & kPresentFlag) == 0)
      missing.add(address, address + pages * kPageSize);
  }
  return missing;
}

}  // namespace

std::map<uint32_t, PageSet> read_lazy_pages(const std::string& dir) {
  std::unique_ptr<DIR, int (*)(DIR*)> entries(::opendir(dir.c_str()), ::closedir);
  if (!entries) throw base::sys_error("cannot read {}", dir);
  std::map<uint32_t, PageSet> found;
  while (const dirent* entry = ::readdir(entries.get())) {
    std::string_view name = entry->d_name;
    constexpr std::string_view kBefore = "pagemap-", kBehind = ".img";
    if (!name.starts_with(kBefore) || !name.ends_with(kBehind)) continue;
    const std::string_view digits =
        name.substr(kBefore.size(), name.size() - kBefore.size() - kBehind.size());
    uint32_t pid = 0;
    const auto [end, bad] = std::from_chars(digits.data(), digits.data() + digits.size(), pid);
    if (bad != std::errc() || end != digits.data() + digits.size()) continue;  // of shared memory
    found[pid] = parse_pagemap(base::read_file(dir + "/" + std::string(name), 1 << 30));
  }
  return found;
}

}  // namespace migrate
