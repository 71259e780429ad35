#pragma once
#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace migrate {

/// Pages of one address space, by their address when the box was frozen: such as those that have not arrived.
/// A page may have been moved since (mremap(2)), given away (munmap, MADV_DONTNEED), or
/// belong to a child that was forked.
class PageSet {
 public:
  void add(uint64_t begin, uint64_t end);
  /// The address that a page at `address` now had at the freeze; nullopt: nothing is missing there.
  [[nodiscard]] std::optional<uint64_t> origin(uint64_t address) const;
  struct Piece {
    uint64_t begin, end;  ///< at the freeze
    uint64_t now;         ///< where `begin` is now
  };
  /// The first piece in [begin, end), both as at the freeze, cut to it.
  [[nodiscard]] std::optional<Piece> first_in(uint64_t begin, uint64_t end) const;
  void drop(uint64_t begin, uint64_t end);      ///< as at the freeze: it has arrived
  void drop_now(uint64_t begin, uint64_t end);  ///< as it is now: the box does not want it any more
  void move(uint64_t from, uint64_t to, uint64_t length);
  [[nodiscard]] bool empty() const { return pieces_.empty(); }
  [[nodiscard]] uint64_t bytes() const;

 private:
  struct Rest {
    uint64_t end;
    uint64_t offset;  ///< now = at the freeze + offset, modulo 2^64
  };
  std::map<uint64_t, Rest> pieces_;
  bool moved_ = false;  ///< some offset is not 0
};

/// The lazy pages of CRIU's images in `dir`, by pid in the box (pagemap-PID.img, images/pagemap.proto of
/// CRIU 4.2).
std::map<uint32_t, PageSet> read_lazy_pages(const std::string& dir);

}  // namespace migrate
