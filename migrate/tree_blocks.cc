#include "migrate/tree_blocks.h"

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace migrate {
namespace {

constexpr size_t kWords = kBlockSize / sizeof(uint64_t);
constexpr size_t kMostBlocks = (256 << 20) / sizeof(BlockSum);
__extension__ using Wide = unsigned __int128;

std::vector<uint64_t> random_words(size_t count) {
  std::vector<uint64_t> words(count);
  auto bytes = std::as_writable_bytes(std::span(words));
  while (!bytes.empty()) {
    const ssize_t got = ::getrandom(bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw base::sys_error("cannot get random numbers");
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
  return words;
}

}  // namespace

void FileBlocks::set(size_t first, const FileBlocks& sums, size_t count) {
  std::ranges::copy(std::span(sums.sums_).first(count), std::span(sums_).subspan(first, count).begin());
}

void FileBlocks::keep(const FileBlocks& sent, size_t begin, size_t end) {
  std::ranges::copy(std::span(sent.sums_).subspan(begin, end - begin),
                    std::span(sums_).subspan(begin, end - begin).begin());
}

std::optional<FileBlocks> SentContents::room_for(uint64_t size) const {
  if (size > uint64_t{kMostBlocks} * kBlockSize || blocks_ + staged_blocks_ + blocks_of(size) > kMostBlocks)
    return std::nullopt;
  return FileBlocks(blocks_of(size));
}

void SentContents::note(FileBlocks& blocks, uint64_t offset, std::span<const std::byte> bytes) {
  for (size_t block = offset / kBlockSize; !bytes.empty(); ++block) {
    const size_t length = std::min(bytes.size(), kBlockSize);
    blocks.sums_.at(block) = sum(bytes.first(length));
    bytes = bytes.subspan(length);
  }
}

BlockSum SentContents::sum(std::span<const std::byte> bytes) {
  if (key_.empty()) key_ = random_words(kWords);
  std::array<uint64_t, kWords> words;
  if (bytes.size() < kBlockSize) words.fill(0);  // as the other side reads behind the end
  std::memcpy(words.data(), bytes.data(), bytes.size());
  Wide even = 0, odd = 0;
  for (size_t i = 0; i < kWords; i += 4) {
    even += Wide{words[i] + key_[i]} * (words[i + 1] + key_[i + 1]);
    odd += Wide{words[i + 2] + key_[i + 2]} * (words[i + 3] + key_[i + 3]);
  }
  const Wide both = even + odd;
  const BlockSum made = {.low = static_cast<uint64_t>(both), .high = static_cast<uint64_t>(both >> 64)};
  return made == BlockSum{} ? BlockSum{.low = 1} : made;
}

const FileBlocks* SentContents::find(ino_t ino) const {
  auto found = files_.find(ino);
  return found == files_.end() ? nullptr : &found->second;
}

void SentContents::set(ino_t ino, std::optional<FileBlocks> blocks) {
  if (!blocks && !files_.contains(ino) && !staged_.contains(ino)) return;  // most files are small
  if (blocks) staged_blocks_ += blocks->size();
  staged_.insert_or_assign(ino, std::move(blocks));
}

void SentContents::begin() {
  staged_.clear();
  staged_blocks_ = 0;
}

void SentContents::commit() {
  for (auto& [ino, blocks] : staged_) {
    if (auto old = files_.find(ino); old != files_.end()) {
      blocks_ -= old->second.size();
      files_.erase(old);
    }
    if (!blocks) continue;
    blocks_ += blocks->size();
    files_.emplace(ino, std::move(*blocks));
  }
  begin();
}

}  // namespace migrate
