#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cerrno>
#include <vector>

#include "base/error.h"
#include "migrate/tree.h"
#include "migrate/tree_format.h"
#include "migrate/tree_meta.h"
#include "migrate/tree_record.h"
#include "migrate/tree_walk.h"

namespace migrate {
namespace {

using base::Fd;

/// Files of this round that links may refer to: an id is an index, a path is a chain of directories.
class LinkTargets {
 public:
  static constexpr uint32_t kRoot = 0;

  uint32_t add_directory(uint32_t parent, std::string_view name) {
    directories_.push_back({.in = parent, .name = keep(name)});
    return static_cast<uint32_t>(directories_.size() - 1);
  }
  void add(uint32_t id, uint32_t directory, std::string_view name) {
    if (id != targets_.size() + 1) throw bad_tree("the link id {} comes after {}", id, targets_.size());
    targets_.push_back({.in = directory, .name = keep(name)});
  }
  struct Entry {
    uint32_t in;  ///< index of a directory
    std::string name;
  };
  [[nodiscard]] const Entry& target(uint32_t id) const {
    if (id == 0 || id > targets_.size())
      throw bad_tree("a link refers to {}, and there are {}", id, targets_.size());
    return targets_[id - 1];
  }
  /// Opens the directory anew from the root, so that it is beneath it whatever came before.
  int open(int root, uint32_t directory) {
    if (directory == kRoot) return root;
    if (directory == open_index_) return open_.get();
    std::vector<uint32_t> way;
    for (uint32_t at = directory; at != kRoot; at = directories_[at].in) way.push_back(at);
    Fd fd;
    for (; !way.empty(); way.pop_back()) {
      fd = open_beneath(fd ? fd.get() : root, directories_[way.back()].name.c_str(), O_PATH | O_DIRECTORY);
      if (!fd)
        throw bad_tree("a link refers to a file in {}, which is gone",
                       shown_name(directories_[way.back()].name));
    }
    open_ = std::move(fd);
    open_index_ = directory;
    return open_.get();
  }

 private:
  std::string keep(std::string_view name) {
    constexpr size_t kMost = 256 << 20;
    memory_ += sizeof(Entry) + name.size();
    if (memory_ > kMost) throw bad_tree("it has more hard links than fit into {} MiB", kMost >> 20);
    return std::string(name);
  }

  std::vector<Entry> directories_ = {{.in = kRoot, .name = {}}};
  std::vector<Entry> targets_;
  size_t memory_ = 0;
  uint32_t open_index_ = kRoot;
  Fd open_;
};

class Receiver {
 public:
  Receiver(int root, Source& source, const ReceiveOptions& options)
      : root_(root), in_(source), options_(options), chain_(root), piece_(kMaxExtent) {}

  TreeStats run() {
    if (in_.text(kTreeMagic.size()) != kTreeMagic) throw bad_tree("it does not begin as one");
    uint8_t flags = in_.u8();
    if (flags > kRoundZero) throw bad_tree("its flags are {}", flags);
    if (flags == kRoundZero) must_be_empty();
    forget_default_acl();
    while (true) {
      if (options_.check) options_.check();
      auto tag = Tag(in_.u8());
      if (tag == Tag::kEnd) break;
      if (left_root_) throw bad_tree("there are records behind the root's end");
      if (tag == Tag::kRename) {
        if (begun_) throw bad_tree("it renames a file behind other records");
        rename();
        continue;
      }
      begun_ = true;
      record(tag);
    }
    if (chain_.depth() > 0) throw bad_tree("it ends inside {}", chain_.path());
    return stats_;
  }

 private:
  void record(Tag tag) {
    if (tag == Tag::kLeave) return leave();
    if ((tag < Tag::kEnter || tag > Tag::kTimes) && tag != Tag::kPatch)
      throw bad_tree("there is no record {}", static_cast<unsigned>(tag));
    std::string name = in_.name();
    switch (tag) {
      case Tag::kEnter:
        enter(name);
        break;
      case Tag::kFile:
        file(name);
        break;
      case Tag::kSymlink:
        symlink(name);
        break;
      case Tag::kNode:
        node(name);
        break;
      case Tag::kLink:
        link(name);
        break;
      case Tag::kTimes:
        times(name);
        break;
      case Tag::kPatch:
        patch(name);
        break;
      default:
        remove_entry(chain_.fd(), name.c_str(), chain_.path(name));
        ++stats_.removed;
        return;
    }
    ++stats_.entries;
  }

  // --- names

  /// A file that is there and has no other name, so that nothing else moves with it.
  void rename() {
    const Place from = take_place(), to = take_place();
    struct stat status;
    if (::fstatat(from.directory(root_), from.name.c_str(), &status, AT_SYMLINK_NOFOLLOW) != 0 ||
        !S_ISREG(status.st_mode) || status.st_nlink != 1)
      throw bad_tree("it renames {}, and there is no such file with one name", shown_name(from.name));
    if (::renameat(from.directory(root_), from.name.c_str(), to.directory(root_), to.name.c_str()) != 0)
      throw_cannot_write(shown_name(to.name));
    ++stats_.entries;
  }

  struct Place {
    Fd fd;  ///< empty: the root
    std::string name;
    [[nodiscard]] int directory(int root) const { return fd ? fd.get() : root; }
  };
  /// Opens all directories on a path, so that it is beneath the root.
  Place take_place() {
    const size_t depth = in_.u16();
    if (depth == 0 || depth > kMaxTreeDepth + 1) throw bad_tree("a path has {} names", depth);
    Place place;
    for (size_t i = 1; i < depth; ++i) {
      const std::string name = in_.name();
      Fd next = open_beneath(place.directory(root_), name.c_str(), O_PATH | O_DIRECTORY);
      if (!next) throw bad_tree("it renames a file in {}, and there is no such directory", shown_name(name));
      place.fd = std::move(next);
    }
    place.name = in_.name();
    return place;
  }

  // --- directories

  void must_be_empty() {
    std::string names;
    if (!read_names(root_, names)) throw base::sys_error("cannot read the directory to receive into");
    if (!names.empty())
      throw base::error("the directory to receive into is not empty: it has {}", shown_name(names.c_str()));
  }

  void enter(const std::string& name) {
    uint8_t flags = in_.u8();
    if (flags > kFresh) throw bad_tree("the directory {} has flags {}", chain_.path(name), flags);
    if (chain_.depth() >= kMaxTreeDepth)
      throw bad_tree("it is nested deeper than {} directories", kMaxTreeDepth);
    if (flags == kFresh) create(name, [&](int dir) { return ::mkdirat(dir, name.c_str(), 0700); });
    chain_.enter(name);
    levels_.push_back({.fresh = flags == kFresh});
    if (chain_.try_fd() < 0)
      throw bad_tree("it goes on in the directory {}, and there is none", chain_.path());
    if (flags != kFresh) forget_default_acl();
  }

  void leave() {
    bool fresh = !levels_.empty() && levels_.back().fresh;
    apply_metadata(in_, chain_.fd(), nullptr, S_IFDIR, !fresh, chain_.path());
    if (levels_.empty()) {
      left_root_ = true;
      return;
    }
    chain_.leave();
    levels_.pop_back();
  }

  /// What is made in a directory would inherit it. The directory gets it back when it is left.
  void forget_default_acl() {
    if (::fremovexattr(chain_.fd(), "system.posix_acl_default") != 0 && errno != ENODATA && errno != ENOTSUP)
      throw base::sys_error("cannot change {}", chain_.path());
  }

  // --- entries

  /// Makes something by the system call in `make(dir)`, in the place of whatever has its name.
  template <class Make>
  int create(const std::string& name, Make make) {
    int dir = chain_.fd();
    int made = make(dir);
    if (made < 0 && errno == EEXIST) {
      remove_entry(dir, name.c_str(), chain_.path(name));
      made = make(dir);
    }
    if (made < 0) throw_cannot_write(chain_.path(name));
    return made;
  }

  void file(const std::string& name) {
    link_target(name);
    uint64_t size = take_size(name);
    Fd fd(create(name, [&](int dir) {
      return open_beneath(dir, name.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0600).release();
    }));
    uint64_t end = 0;
    while (size_t length = in_.u32()) end = extent(fd.get(), name, length, size, end);
    if (end < size && ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
      throw_cannot_write(chain_.path(name));
    apply_metadata(in_, fd.get(), nullptr, S_IFREG, false, chain_.path(name));
  }

  /// Writes into a file that is there: a regular one whose only name this is, so that no other one changes.
  void patch(const std::string& name) {
    uint64_t size = take_size(name);
    Fd fd = open_beneath(chain_.fd(), name.c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY);
    struct stat status;
    if (!fd || ::fstat(fd.get(), &status) != 0 || !S_ISREG(status.st_mode))
      throw bad_tree("it has a part of {}, and there is no such file", chain_.path(name));
    if (status.st_nlink != 1) throw bad_tree("it has a part of {}, which has other names", chain_.path(name));
    if (static_cast<uint64_t>(status.st_size) != size && ::ftruncate(fd.get(), static_cast<off_t>(size)) != 0)
      throw_cannot_write(chain_.path(name));
    uint64_t end = 0;
    while (true) {
      auto kind = PieceKind(in_.u8());
      if (kind == PieceKind::kEnd) break;
      if (kind == PieceKind::kExtent)
        end = extent(fd.get(), name, in_.u32(), size, end);
      else if (kind == PieceKind::kHole)
        end = hole(fd.get(), name, size, end);
      else
        throw bad_tree("{} has a piece of kind {}", chain_.path(name), static_cast<unsigned>(kind));
    }
    apply_metadata(in_, fd.get(), nullptr, S_IFREG, true, chain_.path(name));
  }

  uint64_t take_size(const std::string& name) {
    uint64_t size = in_.u64();
    if (size > INT64_MAX) throw bad_tree("{} has {} bytes", chain_.path(name), size);
    return size;
  }

  /// Takes what follows the length of an extent of a file of `size` bytes, and writes it. Returns where it
  /// ends.
  uint64_t extent(int fd, const std::string& name, size_t length, uint64_t size, uint64_t after) {
    uint64_t offset = in_.u64();
    if (length > kMaxExtent) bad_piece(name, size, length, offset, after);
    check_piece(name, size, length, offset, after);
    auto piece = std::span(piece_).first(length);
    in_.data(piece);
    write(fd, piece, offset, name);
    stats_.bytes += length;
    if (options_.progress) options_.progress(stats_.bytes);
    if (options_.check) options_.check();
    return offset + length;
  }

  uint64_t hole(int fd, const std::string& name, uint64_t size, uint64_t after) {
    uint64_t length = in_.u64(), offset = in_.u64();
    check_piece(name, size, length, offset, after);
    // To the end of a block, or the last one would be filled with zeros instead.
    constexpr uint64_t kUnit = 4096;
    uint64_t whole = offset + length < size ? length : (length + kUnit - 1) / kUnit * kUnit;
    if (whole > INT64_MAX - offset) bad_piece(name, size, length, offset, after);
    if (::fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(offset),
                    static_cast<off_t>(whole)) != 0)
      throw_cannot_write(chain_.path(name));
    if (options_.check) options_.check();
    return offset + length;
  }

  void check_piece(const std::string& name, uint64_t size, uint64_t length, uint64_t offset,
                   uint64_t after) const {
    if (length == 0 || offset < after || offset > size || length > size - offset)
      bad_piece(name, size, length, offset, after);
  }

  [[noreturn]] void bad_piece(const std::string& name, uint64_t size, uint64_t length, uint64_t offset,
                              uint64_t after) const {
    throw bad_tree("{} of {} bytes has {} bytes at {}, after {}", chain_.path(name), size, length, offset,
                   after);
  }

  void write(int fd, std::span<const std::byte> bytes, uint64_t offset, const std::string& name) {
    while (!bytes.empty()) {
      ssize_t put = ::pwrite(fd, bytes.data(), bytes.size(), static_cast<off_t>(offset));
      if (put < 0 && errno == EINTR) continue;
      if (put < 0) throw_cannot_write(chain_.path(name));
      bytes = bytes.subspan(static_cast<size_t>(put));
      offset += static_cast<uint64_t>(put);
    }
  }

  void symlink(const std::string& name) {
    link_target(name);
    size_t length = in_.u16();
    if (length == 0 || length > kMaxTarget)
      throw bad_tree("the symlink {} has {} bytes", chain_.path(name), length);
    std::string target = in_.text(length);
    if (target.find('\0') != target.npos) throw bad_tree("the symlink {} has a NUL in it", chain_.path(name));
    create(name, [&](int dir) { return ::symlinkat(target.c_str(), dir, name.c_str()); });
    apply_metadata(in_, chain_.fd(), name.c_str(), S_IFLNK, false, chain_.path(name));
  }

  void node(const std::string& name) {
    link_target(name);
    auto kind = NodeKind(in_.u8());
    mode_t type = S_IFIFO;
    if (kind == NodeKind::kSocket) {
      type = S_IFSOCK;
    } else if (kind == NodeKind::kWhiteout) {
      type = S_IFCHR;  // device 0:0; no other device is ever made
    } else if (kind != NodeKind::kFifo) {
      throw bad_tree("{} is a node of kind {}", chain_.path(name), static_cast<unsigned>(kind));
    }
    create(name, [&](int dir) { return ::mknodat(dir, name.c_str(), type, 0); });
    apply_metadata(in_, chain_.fd(), name.c_str(), type, false, chain_.path(name));
  }

  void times(const std::string& name) {
    Times times = take_times(in_);
    if (::utimensat(chain_.fd(), name.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) == 0) return;
    if (errno == ENOENT)
      throw bad_tree("it has new times for {}, and there is no such file", chain_.path(name));
    throw_cannot_write(chain_.path(name));
  }

  // --- links

  /// Takes the link id of an entry and remembers the entry, if links to it will follow.
  void link_target(const std::string& name) {
    uint32_t id = in_.u32();
    if (id == 0) return;
    uint32_t directory = LinkTargets::kRoot;
    for (size_t i = 0; i < levels_.size(); ++i) {
      if (levels_[i].link_directory == LinkTargets::kRoot)
        levels_[i].link_directory = targets_.add_directory(directory, chain_.name(i));
      directory = levels_[i].link_directory;
    }
    targets_.add(id, directory, name);
  }

  void link(const std::string& name) {
    const LinkTargets::Entry& target = targets_.target(in_.u32());
    int from = targets_.open(root_, target.in);
    create(name, [&](int dir) { return ::linkat(from, target.name.c_str(), dir, name.c_str(), 0); });
  }

  struct Level {
    bool fresh;
    uint32_t link_directory = LinkTargets::kRoot;  ///< its index, once a link may need it
  };
  int root_;
  RecordReader in_;
  const ReceiveOptions& options_;
  DirChain chain_;
  std::vector<std::byte> piece_;
  std::vector<Level> levels_;
  LinkTargets targets_;
  bool begun_ = false, left_root_ = false;
  TreeStats stats_;
};

}  // namespace

TreeStats receive_tree(int root, Source& source, const ReceiveOptions& options) {
  return Receiver(root, source, options).run();
}

}  // namespace migrate
