#include "migrate/checkpoint_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <string_view>

#include "base/error.h"

namespace migrate {
namespace {

constexpr std::string_view kMagic = "DRVCKPT1";
constexpr size_t kHead = 5;  // type:u8 length:u32
constexpr size_t kMostHeader = 1 << 20;
constexpr size_t kMostSignature = 4096;

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

/// How long such a part may be; nullopt: there is no such part.
std::optional<std::pair<size_t, size_t>> bounds(Part type) {
  switch (type) {
    case Part::kData:
      return std::pair<size_t, size_t>(1, kMaxPiece);
    case Part::kEnd:
    case Part::kRound:
    case Part::kImages:
      return std::pair<size_t, size_t>(0, 0);
    case Part::kHeader:
      return std::pair<size_t, size_t>(2, kMostHeader);
    case Part::kSignature:
      return std::pair<size_t, size_t>(1, kMostSignature);
  }
  return std::nullopt;
}

}  // namespace

CheckpointWriter::CheckpointWriter(const std::string& path, std::string name) : name_(std::move(name)) {
  fd_ = base::Fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!fd_)
    throw base::sys_error("cannot write {}", name_).hint("name a file in a directory that can be written");
  write(bytes_of(kMagic));
}

void CheckpointWriter::header(const nlohmann::json& json) { part(Part::kHeader, bytes_of(json.dump())); }
void CheckpointWriter::begin(Part tree) { part(tree, {}); }
void CheckpointWriter::piece(std::span<const std::byte> bytes) { part(Part::kData, bytes); }
void CheckpointWriter::end() { part(Part::kEnd, {}); }

void CheckpointWriter::sign(const base::Keys& keys, const std::string& comment) {
  part(Part::kSignature, bytes_of(keys.sign(hash_.digest(), comment)));
  if (::fsync(fd_.get()) != 0) throw base::sys_error("cannot write {} to disk", name_);
}

void CheckpointWriter::part(Part type, std::span<const std::byte> payload) {
  std::array<std::byte, kHead> head{std::byte(type)};
  for (size_t i = 1; i < kHead; ++i) head[i] = std::byte(payload.size() >> (8 * (i - 1)));
  write(head);
  write(payload);
}

void CheckpointWriter::write(std::span<const std::byte> bytes) {
  hash_.add(bytes);
  bytes_ += bytes.size();
  try {
    base::write_full(fd_.get(), bytes, name_);
  } catch (base::Error& e) {
    throw std::move(e).hint("free some space there, or name a file elsewhere");
  }
}

CheckpointReader::CheckpointReader(const std::string& path)
    : CheckpointReader(base::open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY), path) {}

CheckpointReader::CheckpointReader(base::Fd fd, std::string name)
    : name_(std::move(name)), fd_(std::move(fd)) {
  struct stat s{};
  if (::fstat(fd_.get(), &s) != 0) throw base::sys_error("cannot look at {}", name_);
  if (!S_ISREG(s.st_mode))
    throw base::error("{} is not a regular file", name_).hint("name what `drover-node box checkpoint` wrote");
  size_ = static_cast<uint64_t>(s.st_size);
  rewind();
}

void CheckpointReader::rewind() {
  if (::lseek(fd_.get(), 0, SEEK_SET) != 0) throw base::sys_error("cannot read {}", name_);
  at_ = 0;
  hash_.emplace();
  last_ = Part::kSignature;
  images_ = false;
  std::array<std::byte, kMagic.size()> magic{};
  const std::string_view text(reinterpret_cast<const char*>(magic.data()), magic.size());
  if (size_ >= magic.size()) read(magic);
  if (text.substr(0, 7) != kMagic.substr(0, 7))
    throw base::error("{} is no checkpoint of a box", name_)
        .hint("name a file that `drover-node box checkpoint` wrote");
  if (text != kMagic)
    throw base::error("{} is a checkpoint of another version of drover, or damaged", name_)
        .hint("restore it with the version that wrote it");
  hash_->add(magic);
}

nlohmann::json CheckpointReader::verify(const base::Keys& keys,
                                        const std::function<void(uint64_t)>& progress) {
  rewind();
  std::string header;
  Part type = next_part();
  header.assign(reinterpret_cast<const char*>(payload_.data()), payload_.size());
  for (; type != Part::kSignature; type = next_part())
    if (progress) progress(at_);
  keys.verify(hashed_, {reinterpret_cast<const char*>(payload_.data()), payload_.size()}, name_);
  verified_ = hashed_;
  rewind();
  next_part();
  auto json = nlohmann::json::parse(header, nullptr, false);
  if (!json.is_object()) throw damaged();
  return json;
}

std::optional<Part> CheckpointReader::next_tree() {
  const Part type = next_part();
  if (type == Part::kRound || type == Part::kImages) return type;
  if (type != Part::kSignature) throw damaged();
  if (hashed_ != verified_)
    throw base::error("{} was changed while it was read", name_).hint("try again when nobody writes to it");
  return std::nullopt;
}

std::span<const std::byte> CheckpointReader::next() {
  return next_part() == Part::kEnd ? std::span<const std::byte>() : std::span<const std::byte>(payload_);
}

/// Reads a part into payload_. What may follow upon what is decided here and nowhere else.
Part CheckpointReader::next_part() {
  std::array<std::byte, kHead> head{};
  read(head);
  const Part type{std::to_integer<uint8_t>(head[0])};
  size_t length = 0;
  for (size_t i = 1; i < kHead; ++i) length |= std::to_integer<size_t>(head[i]) << (8 * (i - 1));
  const auto bound = bounds(type);
  if (!bound || length < bound->first || length > bound->second) throw damaged();

  bool fits = false;
  switch (last_) {
    case Part::kSignature:
      fits = type == Part::kHeader;
      break;
    case Part::kHeader:
      fits = type == Part::kRound;
      break;
    case Part::kRound:
    case Part::kImages:
    case Part::kData:
      fits = type == Part::kData || type == Part::kEnd;
      break;
    case Part::kEnd:
      fits = images_ ? type == Part::kSignature : type == Part::kRound || type == Part::kImages;
      break;
  }
  if (!fits) throw damaged();
  images_ = images_ || type == Part::kImages;
  last_ = type;

  if (type == Part::kSignature) {
    hashed_ = hash_->digest();
    hash_.reset();
  }
  payload_.resize(length);
  read(payload_);
  if (hash_) {
    hash_->add(head);
    hash_->add(payload_);
  } else if (at_ != size_) {
    throw base::error("{} goes on for {} bytes behind its signature", name_, size_ - at_)
        .hint("it was changed after it was written: use another copy of it");
  }
  return type;
}

void CheckpointReader::read(std::span<std::byte> out) {
  if (size_ - at_ < out.size() || base::read_full(fd_.get(), out) != out.size())
    throw base::error("{} is cut off: its signature is missing", name_).hint("use another copy of it");
  at_ += out.size();
}

base::Error CheckpointReader::damaged() const {
  return base::error("{} is damaged near byte {}", name_, at_).hint("use another copy of it");
}

}  // namespace migrate
