#include "migrate/tree_round.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <map>
#include <set>
#include <vector>

#include "base/error.h"
#include "migrate/tree_compare.h"
#include "migrate/tree_content.h"
#include "migrate/tree_format.h"
#include "migrate/tree_meta.h"
#include "migrate/tree_record.h"
#include "migrate/tree_renames.h"
#include "migrate/tree_scan.h"
#include "migrate/tree_walk.h"

namespace migrate {
namespace {

using base::error;
using base::Fd;
using Node = TreeSnapshot::Node;
using Change = TreeDifference::Change;
constexpr uint32_t kNone = TreeSnapshot::kNone;

// ext4 allows 65000 names of a file; the receiver's file system may allow fewer.
constexpr uint32_t kWhiteoutLinks = 10'000;
// Smaller files are read in about a millisecond.
constexpr uint64_t kLeastFollowed = 4 << 20;

/// One round on the sender's side. What was scanned is `now_`; what differs from `before_` is read
/// again, opened by name. In a live tree a name may meanwhile be gone or be another file: then it
/// is marked absent, and the next round sends what is there.
class Sender {
 public:
  Sender(int root, Sink& sink, const TreeSnapshot& before, TreeSnapshot& now, SentContents& contents,
         const SendOptions& options)
      : before_(before),
        now_(now),
        contents_(contents),
        options_(options),
        out_(sink),
        chain_(root),
        content_(out_, contents, [this](uint64_t at) {
          progress(at);
          if (options_.check) options_.check();
        }) {
    std::set<ino_t> always;
    struct stat status;
    if (::fstat(root, &status) != 0) throw base::sys_error("cannot look at the tree");
    device_ = status.st_dev;
    for (auto [device, ino] : options.always)
      if (device == device_) always.insert(ino);
    struct statfs system;
    if (::fstatfs(root, &system) != 0) throw base::sys_error("cannot look at the tree");
    // Holes begin and end where its blocks do.
    may_patch_ = static_cast<size_t>(system.f_bsize) % kBlockSize == 0;
    contents_.begin();
    difference_ = compare_trees(before, now, always);
    std::set<ino_t> seen;
    for (const Node& node : now.nodes_)
      if (S_ISREG(node.mode) && !node.absent && node.size >= kLeastPatch && !seen.insert(node.ino).second)
        twice_.insert(node.ino);
    levels_.push_back({.node = 0, .fresh = false});
  }

  TreeStats run() {
    out_.raw(kTreeMagic);
    out_.u8(before_.empty() ? kRoundZero : 0);
    if (may_patch_ && options_.blocks && !options_.final) follow();
    if (may_patch_ && options_.renames) renames();
    if (difference_.change[0] != Change::kNone) enter_levels();
    directory(0);
    if (gone_ != kNotGone) throw error("the tree to send has vanished");
    if (!entered_.empty()) leave();
    out_.tag(Tag::kEnd);
    out_.flush();
    contents_.commit();
    stats_.read = content_.read_bytes();
    return stats_;
  }

 private:
  struct Level {
    uint32_t node;
    bool fresh;  ///< the other side has no such directory
  };
  static constexpr size_t kNotGone = SIZE_MAX;

  /// Before anything takes their old names, or what was below them goes.
  void renames() {
    for (const Rename& rename : find_renames(before_, now_, difference_, contents_)) {
      out_.tag(Tag::kRename);
      for (const auto& path : {rename.from, rename.to}) {
        out_.u16(static_cast<uint16_t>(path.size()));
        for (const std::string_view name : path) out_.name(name);
      }
      moved_away_.insert(rename.old);
      moved_here_.insert(rename.now);
      ++stats_.entries;
    }
  }

  // --- directories

  /// Sends what is in the directory where the walk is. Returns early when it, or one above, has vanished
  /// (gone_).
  void directory(uint32_t at) {
    if (options_.check) options_.check();
    if (auto removed = difference_.removed.find(at); removed != difference_.removed.end())
      for (uint32_t old : removed->second)
        if (!moved_away_.contains(old) && !remove(before_.name(before_.node(old)))) return;
    const Node& node = now_.node(at);
    for (uint32_t child = node.first; child < node.first + node.count; ++child) {
      if (now_.node(child).absent) continue;
      if (S_ISDIR(now_.node(child).mode)) {
        subdirectory(child);
      } else if (difference_.change[child] == Change::kSend) {
        entry(child);
      }
      if (gone_ == kNotGone && difference_.change[child] == Change::kTimes) times(child);
      if (gone_ != kNotGone) return;
    }
  }

  void subdirectory(uint32_t at) {
    uint32_t old = difference_.before[at];
    bool fresh =
        old == kNone || before_.node(old).ino != now_.node(at).ino || !S_ISDIR(before_.node(old).mode);
    size_t level = levels_.size();
    levels_.push_back({.node = at, .fresh = fresh});
    chain_.enter(now_.name(now_.node(at)));
    if (difference_.change[at] != Change::kSend || enter_levels()) directory(at);
    bool entered = entered_.size() > level;
    if (entered) {
      leave();
      difference_.change[at] = Change::kNone;  // its times went with the rest
    }
    levels_.pop_back();
    chain_.leave();
    if (gone_ != level) return;
    gone_ = kNotGone;
    drop(at);
  }

  /// Tells the other side where we are, before the first record that needs it. False: a directory on the way
  /// has vanished.
  bool enter_levels() {
    while (entered_.size() < levels_.size()) {
      const Level& level = levels_[entered_.size()];
      const Node& node = now_.node(level.node);
      int fd = chain_.try_fd(entered_.size());
      struct stat status;
      std::optional<Metadata> metadata;
      if (fd >= 0 && ::fstat(fd, &status) == 0 && is_still(node, status))
        metadata = read_metadata(XattrPlace(fd), status, chain_.path());
      else if (fd < 0)
        vanished(level.node);
      if (!metadata) {
        gone_ = entered_.size();
        return false;
      }
      if (!entered_.empty()) {
        out_.tag(Tag::kEnter);
        out_.name(now_.name(node));
        out_.u8(level.fresh ? kFresh : 0);
        ++stats_.entries;
      }
      entered_.push_back(std::move(metadata->wire));
    }
    return true;
  }

  void leave() {
    out_.tag(Tag::kLeave);
    out_.raw(entered_.back());
    entered_.pop_back();
  }

  // --- names

  bool remove(std::string_view name) {
    if (!enter_levels()) return false;
    out_.tag(Tag::kRemove);
    out_.name(name);
    ++stats_.removed;
    return true;
  }

  void times(uint32_t at) {
    struct stat status;
    if (!look(at, status) || !enter_levels()) return;
    out_.tag(Tag::kTimes);
    out_.name(now_.name(now_.node(at)));
    std::string wire;
    put_times(wire, status);
    out_.raw(wire);
    ++stats_.entries;
  }

  void entry(uint32_t at) {
    const Node& node = now_.node(at);
    auto group = difference_.group_of.find(at);
    uint32_t* link_id =
        group == difference_.group_of.end() ? nullptr : &difference_.groups[group->second].link_id;
    if (node.whiteout && node.linked) {
      if (whiteout_links_++ % kWhiteoutLinks == 0) whiteout_id_ = 0;
      link_id = &whiteout_id_;
    }
    if (link_id && *link_id != 0) return link(at, *link_id);
    bool sent = S_ISREG(node.mode) ? file(at, link_id != nullptr) : special(at, link_id != nullptr);
    if (!sent) return;
    ++stats_.entries;
    if (link_id) *link_id = ++last_link_id_;
  }

  void link(uint32_t at, uint32_t id) {
    if (!enter_levels()) return;
    out_.tag(Tag::kLink);
    out_.name(now_.name(now_.node(at)));
    out_.u32(id);
    ++stats_.entries;
  }

  /// False: not sent, because it has vanished or gone_ is set.
  bool file(uint32_t at, bool linked) {
    const Node& node = now_.node(at);
    int dir = chain_.try_fd();
    Fd fd;
    if (dir >= 0)
      fd = open_beneath(dir, &now_.names_[node.name_at], O_RDONLY | O_NOATIME | O_NONBLOCK | O_NOCTTY);
    struct stat status = {};
    if (!fd) return vanished(at), drop(at);
    if (::fstat(fd.get(), &status) != 0) throw base::sys_error("cannot look at {}", path(at));
    if (!is_still(node, status)) return drop(at);
    auto metadata = read_metadata(XattrPlace(fd.get()), status, path(at));
    if (!metadata) return drop(at);
    check_lower_links(at, status, *metadata);
    if (!enter_levels()) return false;
    const auto size = static_cast<uint64_t>(status.st_size);
    const bool in_blocks = may_patch_ && !linked && size >= kLeastPatch && !twice_.contains(node.ino);
    const FileBlocks* sent = in_blocks ? sent_before(at) : nullptr;
    FileLook now;
    std::optional<BlockRanges> some;  // all that may differ from what was sent, where that is known
    if (in_blocks && options_.blocks)
      some =
          options_.blocks->look(fd.get(), node.ino, size, options_.final, sent ? &sent->look : nullptr, now);
    std::optional<FileBlocks> blocks;
    // After the final round nobody asks. For a file of many GB it would take longer than all the rest.
    if (in_blocks && !(options_.final && some)) blocks = contents_.room_for(size);
    if (blocks) blocks->look = std::move(now);
    if (sent && (blocks || some)) {
      out_.tag(Tag::kPatch);
      out_.name(now_.name(node));
      out_.u64(size);
      stats_.bytes += content_.patch(fd.get(), size, *sent, some.value_or(BlockRanges{{0, blocks_of(size)}}),
                                     blocks ? &*blocks : nullptr, path(at));
      out_.u8(static_cast<uint8_t>(PieceKind::kEnd));
    } else {
      out_.tag(Tag::kFile);
      out_.name(now_.name(node));
      out_.u32(linked ? last_link_id_ + 1 : 0);
      out_.u64(size);
      stats_.bytes += content_.whole(fd.get(), size, blocks ? &*blocks : nullptr, path(at));
      out_.u32(0);
    }
    out_.raw(metadata->wire);
    if (content_.cut_short()) blocks.reset();
    contents_.set(node.ino, std::move(blocks));
    progress(size);
    done_ += size;
    if (options_.final && (::fstat(fd.get(), &status) != 0 || !is_still(node, status))) throw_changed(at);
    return true;
  }

  /// Large files that are written to.
  void follow() {
    std::map<ino_t, uint64_t> files;
    for (uint32_t at = 0; at < now_.size(); ++at) {
      const Node& node = now_.node(at);
      if (!S_ISREG(node.mode) || node.absent || node.size < kLeastFollowed ||
          difference_.change[at] != Change::kSend)
        continue;
      if (contents_.find(node.ino) || !options_.open || options_.open->contains({device_, node.ino}))
        files.emplace(node.ino, node.size);
    }
    options_.blocks->follow(files);
  }

  /// The blocks of the file that the other side has under this name, and under no other.
  [[nodiscard]] const FileBlocks* sent_before(uint32_t at) const {
    if (moved_here_.contains(at)) return contents_.find(now_.node(at).ino);
    uint32_t old = difference_.before[at];
    if (old == kNone || !S_ISREG(before_.node(old).mode) || before_.node(old).ino != now_.node(at).ino)
      return nullptr;
    return contents_.find(now_.node(at).ino);
  }

  /// Symlinks, pipes, sockets, whiteouts.
  bool special(uint32_t at, bool linked) {
    const Node& node = now_.node(at);
    struct stat status;
    if (!look(at, status)) return false;
    int dir = chain_.fd();
    const char* name = &now_.names_[node.name_at];
    std::array<char, kMaxTarget + 1> target;
    ssize_t length = S_ISLNK(node.mode) ? ::readlinkat(dir, name, target.data(), target.size()) : 0;
    if (length < 0) return vanished(at), drop(at);
    auto metadata = read_metadata(XattrPlace(dir, now_.name(node)), status, path(at));
    if (!metadata) return drop(at);
    check_lower_links(at, status, *metadata);
    NodeKind kind = node.whiteout         ? NodeKind::kWhiteout
                    : S_ISFIFO(node.mode) ? NodeKind::kFifo
                                          : NodeKind::kSocket;
    if (S_ISBLK(node.mode) || (S_ISCHR(node.mode) && !node.whiteout))
      throw error("{} is a device node, which a box cannot make: it is not taken along", path(at))
          .hint("remove it from the box");
    if (!enter_levels()) return false;
    out_.tag(S_ISLNK(node.mode) ? Tag::kSymlink : Tag::kNode);
    out_.name(now_.name(node));
    out_.u32(linked ? last_link_id_ + 1 : 0);
    if (S_ISLNK(node.mode)) {
      out_.u16(static_cast<uint16_t>(length));
      out_.raw(std::string_view(target.data(), static_cast<size_t>(length)));
    } else {
      out_.u8(static_cast<uint8_t>(kind));
    }
    out_.raw(metadata->wire);
    return true;
  }

  // --- what has changed since the scan

  /// The file is the one that was scanned; when final, exactly as it was then.
  [[nodiscard]] bool is_still(const Node& node, const struct stat& status) const {
    bool same = status.st_ino == node.ino && (status.st_mode & S_IFMT) == (node.mode & S_IFMT);
    return same &&
           (!options_.final || (ctime_ns(status) == node.ctime_ns &&
                                (S_ISDIR(node.mode) || static_cast<uint64_t>(status.st_size) == node.size)));
  }

  static uint64_t ctime_ns(const struct stat& status) {
    return static_cast<uint64_t>(status.st_ctim.tv_sec) * kNanoseconds +
           static_cast<uint64_t>(status.st_ctim.tv_nsec);
  }

  /// False: it has vanished, and was dropped.
  bool look(uint32_t at, struct stat& status) {
    const Node& node = now_.node(at);
    int dir = chain_.try_fd();
    if (dir < 0 || ::fstatat(dir, &now_.names_[node.name_at], &status, AT_SYMLINK_NOFOLLOW) != 0)
      return vanished(at), drop(at);
    return is_still(node, status) || drop(at);
  }

  /// After a failed call: nothing, when the reason is that the name is gone or something else; else throws.
  void vanished(uint32_t at) const {
    bool gone = errno == ENOENT || errno == ENOTDIR || errno == ELOOP || errno == ENXIO || errno == EINVAL;
    if (!gone || options_.final) throw base::sys_error("cannot read {}", path(at));
  }

  /// The other side shall have nothing of this name. Always false.
  bool drop(uint32_t at) {
    if (options_.final) throw_changed(at);
    now_.node(at).absent = true;
    const uint32_t old = difference_.before[at];
    if (moved_here_.contains(at) || (old != kNone && !moved_away_.contains(old)))
      remove(now_.name(now_.node(at)));
    return false;
  }

  [[noreturn]] void throw_changed(uint32_t at) const {
    throw error("{} changed while the box was frozen", path(at))
        .hint("something outside the box writes to its private layer");
  }

  /// A file of a template layer that has several names there, but fewer in the upper: overlayfs shows one
  /// file under all of them by its index, which stays behind. The other names would show the old content.
  void check_lower_links(uint32_t at, const struct stat& status, const Metadata& metadata) const {
    if (!metadata.overlay_nlink || ctime_ns(status) != now_.node(at).ctime_ns) return;
    auto group = difference_.group_of.find(at);
    if (!options_.final && (now_.node(at).dirty || (group != difference_.group_of.end() &&
                                                    !difference_.groups[group->second].steady)))
      return;
    long names = group == difference_.group_of.end() ? 1 : difference_.groups[group->second].names;
    if (static_cast<long>(status.st_nlink) + *metadata.overlay_nlink > names)
      throw error(
          "{} has further names in its template, which would no longer be the same file on the other node",
          path(at))
          .hint("build the template's layers without hard links");
  }

  void progress(uint64_t within) const {
    if (options_.progress) options_.progress(done_ + within, difference_.bytes);
  }

  [[nodiscard]] std::string path(uint32_t at) const { return chain_.path(now_.name(now_.node(at))); }

  const TreeSnapshot& before_;
  TreeSnapshot& now_;
  SentContents& contents_;
  const SendOptions& options_;
  RecordWriter out_;
  DirChain chain_;
  ContentSender content_;
  TreeDifference difference_;
  std::set<ino_t>
      twice_;  ///< large files of two names, or renamed during the scan: which copy the sums are of?
  std::set<uint32_t> moved_away_;     ///< old nodes: the other side has nothing of this name any more
  std::set<uint32_t> moved_here_;     ///< new ones: it has the file
  std::vector<Level> levels_;         ///< from the root to where the walk is
  std::vector<std::string> entered_;  ///< those that the other side knows of, with their metadata
  dev_t device_ = 0;
  bool may_patch_ = false;
  size_t gone_ = kNotGone;  ///< the level that has vanished
  uint32_t last_link_id_ = 0, whiteout_id_ = 0, whiteout_links_ = 0;
  uint64_t done_ = 0;
  TreeStats stats_;
};

}  // namespace

TreeStats send_round(int root, Sink& sink, const TreeSnapshot& before, TreeSnapshot& now,
                     SentContents& contents, const SendOptions& options) {
  return Sender(root, sink, before, now, contents, options).run();
}

}  // namespace migrate
