#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <set>

#include "base/error.h"
#include "base/hash.h"
#include "base/pause.h"
#include "image/delta.h"
#include "image/half_file.h"
#include "image/part_file.h"
#include "image/verity.h"
#include "image/zstd.h"

// How a delta is applied: front to back, a piece at a time. Each byte that is written is hashed on its way;
// the hash in the signed manifest has the last word.

namespace image {
namespace {

using Kind = DeltaOp::Kind;
using Bytes = std::span<const std::byte>;

constexpr size_t kPiece = 256 << 10;
constexpr std::string_view kRoot = "root.img";

base::Error malformed(std::string_view part, std::string_view what) {
  return base::error("the delta is malformed: {}: {}", part, what);
}

/// Old and new parts that steps copy from: an old one is held against what the delta expects before its first
/// byte is used.
class Sources {
 public:
  Sources(const DeltaHeader& header, const Manifest& made, const PartPaths& old, const PartPaths& written)
      : header_(header), made_(made), old_(old), written_(written) {}

  /// Which parts steps of `section` may name.
  [[nodiscard]] size_t count(const DeltaSection* section) const {
    return header_.sources.size() + static_cast<size_t>(section - header_.sections.data());
  }
  [[nodiscard]] const Part& part(size_t source) const {
    size_t olds = header_.sources.size();
    return source < olds ? header_.sources[source] : made_.at(header_.sections[source - olds].part);
  }
  void read(size_t source, uint64_t at, std::span<std::byte> out) {
    read_exact(open(source), at, out, part(source).name);
  }

 private:
  int open(size_t source) {
    if (auto found = open_.find(source); found != open_.end()) return found->second.get();
    bool is_old = source < header_.sources.size();
    const Part& wanted = part(source);
    const PartPaths& paths = is_old ? old_ : written_;
    auto path = paths.find(wanted.name);
    if (path == paths.end()) throw base::error("the delta is made from {}, which is not there", wanted.name);
    base::Fd fd = base::open(path->second, O_RDONLY | O_NONBLOCK);
    if (is_old) check(fd.get(), wanted, path->second);
    return open_.emplace(source, std::move(fd)).first->second.get();
  }

  void check(int fd, const Part& wanted, const std::string& path) const {
    auto other = [&] {
      return base::error("{} is not the {} that the delta is made from", path, wanted.name)
          .hint(std::format("the delta begins at {}: apply it to that image", header_.from));
    };
    if (size_of(fd, path) < wanted.bytes) throw other();
    base::Sha256 hash;
    read_pieces(fd, wanted.bytes, path, [&](Bytes piece) { hash.add(piece); });
    if (hash.hex() != wanted.sha256) throw other();
  }

  const DeltaHeader& header_;
  const Manifest& made_;
  const PartPaths &old_, &written_;
  std::map<size_t, base::Fd> open_;
};

/// A new part while it is written: from the front, into a file (where zeros become holes) or a block device.
class Writer {
 public:
  Writer(const Part& part, const Root& root, int fd)
      : part_(part),
        data_bytes_(part.name == kRoot ? root.data_bytes : 0),
        tree_(root.salt, root.uuid),
        fd_(fd) {
    struct stat status;
    if (::fstat(fd, &status) != 0) throw base::sys_error("cannot look at {}", part.name);
    sparse_ = S_ISREG(status.st_mode);
    if (!sparse_ && size_of(fd, part.name) < part.bytes)
      throw base::error("{} has {} bytes and does not fit", part.name, part.bytes);
    buffer_.reserve(kPiece);
  }

  [[nodiscard]] uint64_t at() const { return at_ + buffer_.size(); }
  [[nodiscard]] uint64_t left() const { return part_.bytes - at(); }

  /// A place for up to `most` bytes, to be filled by `fill`; returns how many they are.
  template <class Fill>
  uint64_t add(uint64_t most, Fill fill) {
    size_t begin = buffer_.size();
    buffer_.resize(begin + std::min<uint64_t>(most, kPiece - begin));
    std::span<std::byte> room = std::span(buffer_).subspan(begin);
    fill(room);
    if (buffer_.size() == kPiece) flush();
    return room.size();
  }

  /// The hash area of what has been written.
  void add_tree(uint64_t bytes) {
    if (data_bytes_ == 0 || at() != data_bytes_ || bytes != left())
      throw malformed(part_.name, "a hash area where none belongs");
    flush();
    std::string area = tree_.area().bytes;
    Bytes all = std::as_bytes(std::span(area));
    for (size_t from = 0; from < all.size();)
      from += add(all.size() - from, [&](std::span<std::byte> room) {
        std::ranges::copy(all.subspan(from, room.size()), room.begin());
      });
  }

  void finish() {
    flush();
    if (hash_.hex() != part_.sha256)
      throw base::error("{} did not become what the manifest names: the delta is damaged", part_.name)
          .hint("fetch the delta again, or make it again");
    if (sparse_ && ::ftruncate(fd_, static_cast<off_t>(part_.bytes)) != 0)
      throw base::sys_error("cannot write {}", part_.name);
    if (::fsync(fd_) != 0) throw base::sys_error("cannot write {} to disk", part_.name);
  }

 private:
  void flush() {
    base::check_interrupt();
    hash_.add(buffer_);
    // The hash area begins with a block: until then there are whole blocks.
    if (at_ < data_bytes_)
      tree_.add(Bytes(buffer_).first(std::min<uint64_t>(buffer_.size(), data_bytes_ - at_)));
    bool zeros = std::ranges::all_of(buffer_, [](std::byte b) { return b == std::byte{0}; });
    if (!sparse_ || !zeros) {
      if (::lseek(fd_, static_cast<off_t>(at_), SEEK_SET) < 0)
        throw base::sys_error("cannot write {}", part_.name);
      base::write_full(fd_, buffer_, part_.name);
    }
    at_ += buffer_.size();
    buffer_.clear();
  }

  const Part& part_;
  uint64_t data_bytes_;
  VerityTree tree_;
  int fd_;
  bool sparse_ = false;
  uint64_t at_ = 0;  ///< so many bytes have been written
  std::vector<std::byte> buffer_;
  base::Sha256 hash_;
};

/// Gives the bytes of a section's frame.
Unpacker::Source frame_source(int fd, uint64_t begin, uint64_t bytes, const std::string& file) {
  return [=, at = begin, end = begin + bytes](std::span<std::byte> out) mutable {
    size_t size = std::min<uint64_t>(out.size(), end - at);
    read_exact(fd, at, out.first(size), file);
    at += size;
    return size;
  };
}

void take_step(const DeltaOp& op, Unpacker& frame, Sources& sources, size_t source_count, Writer& out) {
  if (op.kind == Kind::kVerity) return out.add_tree(op.length);
  if (op.kind == Kind::kCopy) {
    if (op.source >= source_count) throw base::error("the delta is malformed: it copies from no part");
    uint64_t bytes = sources.part(op.source).bytes;
    if (op.offset > bytes || op.length > bytes - op.offset)
      throw base::error("the delta is malformed: it copies from behind the end of {}",
                        sources.part(op.source).name);
  }
  for (uint64_t done = 0; done < op.length;)
    done += out.add(op.length - done, [&](std::span<std::byte> room) {
      if (op.kind == Kind::kNew)
        frame.read_exact(room);
      else if (op.kind == Kind::kCopy)
        sources.read(op.source, op.offset + done, room);
      else
        std::ranges::fill(room, std::byte{0});
    });
}

}  // namespace

Delta::Delta(std::string file, const base::Keys& keys) : file_(std::move(file)) {
  std::optional<base::Fd> fd = base::open_if_exists(file_, O_RDONLY | O_NONBLOCK);
  if (!fd) throw base::error("there is no delta {}", file_).hint("`drover image delta` makes one");
  fd_ = std::move(*fd);
  base::in_context("reading " + file_, [&] {
    uint64_t at = 0, bytes = size_of(fd_.get(), file_);
    auto read = [&](uint64_t size) {
      if (size > bytes - at) throw base::error("the delta ends too early");
      std::string text(size, '\0');
      read_exact(fd_.get(), at, std::as_writable_bytes(std::span(text)), file_);
      at += size;
      return text;
    };
    if (bytes < kDeltaHead) throw base::error("this is not an image delta");
    DeltaHead head = parse_delta_head(read(kDeltaHead));
    std::string header = read(head.header), manifest = read(head.manifest), signature = read(head.signature);
    made_ = check_manifest(std::move(manifest), std::move(signature), keys, "the delta's manifest");
    header_ = DeltaHeader::parse(header, made_.manifest);
    for (const DeltaSection& section : header_.sections) {
      begins_.push_back(at);
      if (section.bytes > bytes - at) throw base::error("the delta ends too early");
      at += section.bytes;
    }
    if (at != bytes) throw base::error("the delta goes on where it should end");
  });
}

void Delta::require_memory(uint64_t bytes) const {
  if (header_.memory > bytes)
    throw base::error("applying this delta takes {} of memory, and {} are allowed",
                      base::human_size(header_.memory), base::human_size(bytes))
        .hint("make it with a smaller --node-memory");
}

void Delta::write_part(base::Context& context, std::string_view name, const PartPaths& old,
                       const PartPaths& made, int fd) const {
  const Part& part = made_.manifest.at(name);
  base::Phase phase(context.progress, "make " + part.name, part.bytes);
  Sources sources(header_, made_.manifest, old, made);
  Writer out(part, made_.manifest.root, fd);
  const DeltaSection* section = header_.find(name);
  if (section == nullptr) {
    size_t source = static_cast<size_t>(std::ranges::find(header_.sources, part) - header_.sources.begin());
    while (out.left() > 0) {
      out.add(out.left(),
              [&](std::span<std::byte> room) { sources.read(source, out.at() - room.size(), room); });
      phase.at(out.at());
    }
    return out.finish();
  }
  std::vector<std::byte> prefix(section->prefix ? section->prefix->bytes : 0);
  if (section->prefix) sources.read(section->prefix->source, 0, prefix);
  uint64_t begin = begins_[static_cast<size_t>(section - header_.sections.data())];
  Unpacker frame(frame_source(fd_.get(), begin, section->bytes, file_), section->window_log, prefix);
  while (out.left() > 0) {
    std::string bytes(kDeltaOp, '\0');
    frame.read_exact(std::as_writable_bytes(std::span(bytes)));
    DeltaOp op = parse_delta_op(bytes);
    if (op.length > out.left()) throw malformed(name, "more than the part's bytes");
    if (op.length < kLeastStep && op.length != out.left()) throw malformed(name, "too small a step");
    take_step(op, frame, sources, sources.count(section), out);
    phase.at(out.at());
  }
  frame.finish();
  out.finish();
}

void Delta::write_file(base::Context& context, std::string_view part, const PartPaths& old,
                       const PartPaths& made, const std::string& path) const {
  HalfFile file(path, HalfFile::Kind::kFile);
  write_part(context, part, old, made, file.fd());
  base::pause_point("delta.file");
  file.finish();
}

Manifest apply_delta(base::Context& context, const std::string& file, const std::string& old_dir,
                     const std::string& out_dir, const base::Keys& keys,
                     std::optional<uint64_t> node_memory) {
  Delta delta(file, keys);
  const SignedManifest& made = delta.made();
  delta.require_memory(node_memory ? *node_memory : read_image(old_dir, keys).node_memory);
  HalfFile out(out_dir, HalfFile::Kind::kDirectory);
  PartPaths old, written;
  for (const Part& source : delta.header().sources)
    old[source.name] = std::format("{}/{}", old_dir, source.name);
  auto write = [&](const std::string& part) {
    std::string path = std::format("{}/{}", out.half_path(), part);
    if (size_t slash = path.rfind('/'); slash > out.half_path().size())
      base::make_directories(path.substr(0, slash));
    base::Fd fd = base::open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0644);
    delta.write_part(context, part, old, written, fd.get());
    written[part] = path;
    base::pause_point("apply." + part);
  };
  for (const Part& part : made.manifest.parts)
    if (delta.header().find(part.name) == nullptr) write(part.name);
  for (const DeltaSection& section : delta.header().sections) write(section.part);
  for (const auto& [part, path] : written) {
    size_t slash = path.rfind('/');
    base::fsync_path(path.substr(0, slash));
  }
  base::write_file_atomically(std::format("{}/{}", out.half_path(), kSignatureFile), made.signature);
  base::write_file_atomically(std::format("{}/{}", out.half_path(), kManifestFile), made.text);
  base::pause_point("apply.signed");
  out.finish();
  return made.manifest;
}

}  // namespace image
