#include "bootstrap/kernel_line.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "base/error.h"

namespace bootstrap {
namespace {

constexpr std::string_view kSpace = " \t\n";
constexpr uint64_t kBlock = 4096;

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> words;
  for (size_t begin = line.find_first_not_of(kSpace); begin != std::string_view::npos;) {
    size_t end = std::min(line.find_first_of(kSpace, begin), line.size());
    words.push_back(line.substr(begin, end - begin));
    begin = line.find_first_not_of(kSpace, end);
  }
  return words;
}

/// The value of the last word NAME=VALUE.
std::optional<std::string_view> value_of(std::string_view line, std::string_view name) {
  std::optional<std::string_view> value;
  for (std::string_view word : words_of(line))
    if (word.starts_with(name) && word.substr(name.size()).starts_with('='))
      value = word.substr(name.size() + 1);
  return value;
}

std::string_view needed(std::string_view line, std::string_view name, std::string_view expected) {
  auto value = value_of(line, name);
  if (!value) throw base::error("the kernel's command line has no {}=: expected {}", name, expected);
  return *value;
}

base::Error wrong(std::string_view name, std::string_view expected, std::string_view found) {
  return base::error("{}= on the kernel's command line: expected {}, found \"{}\"", name, expected, found);
}

}  // namespace

KernelLine parse_kernel_line(std::string_view line) {
  KernelLine facts;
  if (!booted_from_network(line)) {
    constexpr std::string_view kSlot = "a or b";
    std::string_view slot = needed(line, "drover.slot", kSlot);
    for (image::Slot one : {image::Slot::kA, image::Slot::kB})
      if (slot == image::name(one)) facts.slot = one;
    if (!facts.slot) throw wrong("drover.slot", kSlot, slot);
  } else if (booted_from_slot(line)) {
    throw base::error(
        "the kernel's command line has both drover.slot= and drover.network: expected one of them");
  }

  constexpr std::string_view kHash = "64 hexadecimal digits";
  facts.root_hash = needed(line, "drover.root", kHash);
  if (facts.root_hash.size() != 64 ||
      facts.root_hash.find_first_not_of("0123456789abcdef") != std::string::npos)
    throw wrong("drover.root", kHash, facts.root_hash);

  constexpr std::string_view kOffset = "bytes, a multiple of 4096";
  std::string_view offset = needed(line, "drover.hash-offset", kOffset);
  auto [end, error] = std::from_chars(offset.data(), offset.data() + offset.size(), facts.hash_offset);
  if (error != std::errc() || end != offset.data() + offset.size() || facts.hash_offset == 0 ||
      facts.hash_offset % kBlock != 0)
    throw wrong("drover.hash-offset", kOffset, offset);
  return facts;
}

bool booted_from_network(std::string_view line) {
  return std::ranges::contains(words_of(line), "drover.network");
}

bool booted_from_slot(std::string_view line) { return value_of(line, "drover.slot").has_value(); }

}  // namespace bootstrap
