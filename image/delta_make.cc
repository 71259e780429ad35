#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <optional>

#include "base/error.h"
#include "base/hash.h"
#include "base/pause.h"
#include "image/delta.h"
#include "image/delta_plan.h"
#include "image/half_file.h"
#include "image/part_file.h"
#include "image/verity.h"
#include "image/zstd.h"

// How a delta is made: each part that differs is laid out as a plan of copied and new blocks, the plan is
// packed twice, without and with the old part as zstd's prefix, and the smaller one that a node can apply is
// taken.

namespace image {
namespace {

using Kind = DeltaOp::Kind;

constexpr int kLevel = 19;
constexpr int kLeastWindow = 10, kPlainWindow = 23, kMostWindow = 31;
constexpr size_t kBlock = kVerityBlock;  // erofs places everything in such blocks
constexpr size_t kSector = kLeastStep;   // of disk.img, whose FAT begins its clusters at any of them
constexpr std::string_view kRoot = "root.img", kDisk = "disk.img";

/// A part in memory, by way of the page cache. Nobody writes to an image directory once it has its manifest.
class MappedPart {
 public:
  MappedPart(const std::string& directory, const Part& part) : bytes_(part.bytes) {
    base::Fd fd = open_part(directory, part.name);
    if (uint64_t bytes = size_of(fd.get(), part.name); bytes != part.bytes)
      throw base::error("{}/{} has {} bytes, not {}", directory, part.name, bytes, part.bytes);
    if (bytes_ == 0) return;
    void* data = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (data == MAP_FAILED) throw base::sys_error("cannot map {}/{}", directory, part.name);
    data_ = static_cast<const std::byte*>(data);
    try {
      check(directory, part, fd.get());
    } catch (...) {
      unmap();
      throw;
    }
  }
  MappedPart(const MappedPart&) = delete;
  MappedPart& operator=(const MappedPart&) = delete;
  ~MappedPart() { unmap(); }
  [[nodiscard]] Bytes bytes() const { return {data_, bytes_}; }

 private:
  void unmap() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), bytes_);
  }
  static void check(const std::string& directory, const Part& part, int fd) {
    base::Sha256 hash;
    read_pieces(fd, part.bytes, part.name, [&](Bytes piece) { hash.add(piece); });
    if (hash.hex() != part.sha256)
      throw base::error("{}/{} is damaged: its bytes do not give the SHA-256 of the manifest", directory,
                        part.name)
          .hint("`drover image verify` looks at all parts");
  }
  const std::byte* data_ = nullptr;
  uint64_t bytes_;
};

struct Packed {
  DeltaSection section;
  std::string frame;
};

int window_for(uint64_t bytes, int most) {
  return std::clamp(static_cast<int>(std::bit_width(bytes)), kLeastWindow, most);
}

class Maker {
 public:
  Maker(base::Context& context, const std::string& old_dir, const std::string& new_dir,
        const base::Keys& keys, const DeltaOptions& options)
      : context_(context),
        old_dir_(old_dir),
        new_dir_(new_dir),
        old_(read_signed(old_dir, keys).manifest),
        made_(read_signed(new_dir, keys)),
        memory_(options.node_memory.value_or(old_.node_memory)) {
    header_.from = old_.reference();
    for (const Part& part : made_.manifest.parts)
      if (const Part* old = old_.find(part.name)) header_.sources.push_back(*old);
  }

  DeltaReport write(const std::string& file) {
    report_.from = old_.reference();
    report_.to = made_.manifest.reference();
    for (const Part& part : parts_in_order()) {
      base::check_interrupt();
      base::Phase phase(context_.progress, part.name);
      add(part);
    }
    header_.memory = memory_for(header_.sections, made_.manifest);
    if (header_.memory > memory_)
      throw base::error("applying this delta takes {} of memory, and the node has {}",
                        base::human_size(header_.memory), base::human_size(memory_))
          .hint("--node-memory says how much it has");
    write_out(file);
    report_.memory = header_.memory;
    return report_;
  }

 private:
  /// disk.img last, as it is made of the others.
  [[nodiscard]] std::vector<Part> parts_in_order() const {
    std::vector<Part> parts = made_.manifest.parts;
    std::ranges::stable_partition(parts, [](const Part& part) { return part.name != kDisk; });
    return parts;
  }

  void add(const Part& part) {
    if (part.name == kRoot || part.name == "vmlinuz" || part.name == "initrd")
      report_.image_bytes += part.bytes;
    if (std::ranges::contains(header_.sources, part)) {
      report_.parts.push_back({.part = part.name, .bytes = part.bytes, .delta_bytes = 0, .how = "same"});
      return;
    }
    Packed packed = part.name == kDisk ? pack_disk(part) : pack_part(part);
    report_.parts.push_back({.part = part.name,
                             .bytes = part.bytes,
                             .delta_bytes = packed.frame.size(),
                             .how = packed.section.prefix ? "patch" : "blocks"});
    header_.sections.push_back(packed.section);
    frames_.push_back(std::move(packed.frame));
  }

  Packed pack_part(const Part& part) {
    MappedPart mapped(new_dir_, part);
    auto source = std::ranges::find(header_.sources, part.name, &Part::name);
    std::optional<MappedPart> old;
    if (source != header_.sources.end()) old.emplace(old_dir_, *source);
    Bytes now = mapped.bytes(), before = old ? old->bytes() : Bytes();
    bool tree = part.name == kRoot && has_its_tree(now);
    if (tree) now = now.first(made_.manifest.root.data_bytes);
    // What the node makes itself it does not read of the old root either.
    if (part.name == kRoot && old) before = before.first(old_.root.data_bytes);

    BlockIndex index(part.name == kRoot ? kBlock : kSector);
    auto at = static_cast<size_t>(source - header_.sources.begin());
    if (old) index.add(static_cast<uint8_t>(at), before);
    std::vector<PlannedStep> steps = plan(now, index);
    if (tree) steps.push_back({.op = {.kind = Kind::kVerity, .length = mapped.bytes().size() - now.size()}});

    Packed best = pack(part.name, steps, now, std::nullopt, {});
    if (before.empty()) return best;
    Packed patch = pack(part.name, steps, now, {{.source = at, .bytes = before.size()}}, before);
    bool fits = memory_for({patch.section}, made_.manifest) <= memory_;
    return fits && patch.frame.size() < best.frame.size() ? std::move(patch) : std::move(best);
  }

  Packed pack_disk(const Part& part) {
    MappedPart mapped(new_dir_, part);
    BlockIndex index(kSector);
    std::vector<std::unique_ptr<MappedPart>> kept;
    auto add_source = [&](const std::string& directory, const Part& from, size_t at) {
      kept.push_back(std::make_unique<MappedPart>(directory, from));
      index.add(static_cast<uint8_t>(at), kept.back()->bytes());
    };
    // The new parts first: what stands in one of them as well does not have to be in the old disk.
    for (size_t k = 0; k < header_.sections.size(); ++k)
      add_source(new_dir_, made_.manifest.at(header_.sections[k].part), header_.sources.size() + k);
    for (size_t k = 0; k < header_.sources.size(); ++k)
      if (header_.sources[k].name == kDisk || header_.find(header_.sources[k].name) == nullptr)
        add_source(old_dir_, header_.sources[k], k);
    return pack(part.name, plan(mapped.bytes(), index), mapped.bytes(), std::nullopt, {});
  }

  /// Whether the root's hash area is the one that a node makes itself.
  [[nodiscard]] bool has_its_tree(Bytes root) const {
    const Root& said = made_.manifest.root;
    VerityTree tree(said.salt, said.uuid);
    tree.add(root.first(said.data_bytes));
    std::string area = tree.area().bytes;
    return std::ranges::equal(std::as_bytes(std::span(area)), root.subspan(said.data_bytes));
  }

  Packed pack(const std::string& part, const std::vector<PlannedStep>& steps, Bytes now,
              std::optional<DeltaSection::Prefix> prefix, Bytes before) {
    uint64_t bytes = 0;
    for (const PlannedStep& step : steps)
      bytes += kDeltaOp + (step.op.kind == Kind::kNew ? step.op.length : 0);
    int window = window_for(bytes, prefix ? kMostWindow : kPlainWindow);
    Packer packer(kLevel, window, before, bytes);
    for (const PlannedStep& step : steps) {
      base::check_interrupt();
      std::string op = render(step.op);
      packer.add(std::as_bytes(std::span(op)));
      if (step.op.kind == Kind::kNew) packer.add(now.subspan(step.at, step.op.length));
    }
    Packed packed = {.section = {.part = part, .window_log = window, .prefix = prefix},
                     .frame = packer.finish()};
    packed.section.bytes = packed.frame.size();
    return packed;
  }

  void write_out(const std::string& file) {
    std::string header = header_.render();
    HalfFile out(file, HalfFile::Kind::kFile);
    std::vector<std::string> pieces = {
        render(DeltaHead{.header = static_cast<uint32_t>(header.size()),
                         .manifest = static_cast<uint32_t>(made_.text.size()),
                         .signature = static_cast<uint32_t>(made_.signature.size())}),
        header, made_.text, made_.signature};
    std::ranges::move(frames_, std::back_inserter(pieces));
    for (const std::string& piece : pieces) {
      base::write_full(out.fd(), piece, file);
      report_.bytes += piece.size();
    }
    base::pause_point("delta.written");
    out.finish();
  }

  base::Context& context_;
  std::string old_dir_, new_dir_;
  Manifest old_;
  SignedManifest made_;
  uint64_t memory_;
  DeltaHeader header_;
  std::vector<std::string> frames_;
  DeltaReport report_;
};

}  // namespace

DeltaReport make_delta(base::Context& context, const std::string& old_dir, const std::string& new_dir,
                       const base::Keys& keys, const std::string& file, const DeltaOptions& options) {
  return Maker(context, old_dir, new_dir, keys, options).write(file);
}

}  // namespace image
