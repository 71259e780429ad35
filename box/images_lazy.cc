#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <format>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "box/image_reader.h"
#include "box/lazy_memory.h"

namespace box {
namespace {

// CRIU 4.2: images/mm.proto, images/vma.proto, images/pagemap.proto.
constexpr unsigned kMmVma = 14;
constexpr unsigned kVmaStart = 1, kVmaEnd = 2, kVmaFlags = 6, kVmaStatus = 7;
constexpr unsigned kMapAddress = 1, kMapPages32 = 2, kMapFlags = 4, kMapPages = 5;
// criu/include/image.h, criu/include/pagemap.h.
constexpr uint64_t kRegular = 1 << 0, kStack = 1 << 1, kHeap = 1 << 5, kAnonymousPrivate = 1 << 9;
constexpr uint64_t kLazy = 1 << 1;
// <linux/mman.h> of Linux 6.11: of the bits for the kind of a mapping.
constexpr uint64_t kKind = 0x0f, kDroppable = 0x08;
constexpr uint64_t kPage = 4096;

struct Mappings {
  std::vector<AddressRange> lazy, droppable;
};

void add_mapping(ImageReader vma, Mappings& out) {
  AddressRange range{};
  uint64_t flags = 0, status = 0;
  while (!vma.done()) {
    const ImageField f = vma.field();
    if (f.number == kVmaStart) range.begin = f.value;
    if (f.number == kVmaEnd) range.end = f.value;
    if (f.number == kVmaFlags) flags = f.value;
    if (f.number == kVmaStatus) status = f.value;
  }
  // Both of these kinds, and perhaps of the others, but of no kind that this does not know.
  constexpr uint64_t kMust = kRegular | kAnonymousPrivate, kMay = kMust | kStack | kHeap;
  if ((status & kMust) != kMust || (status & ~kMay) != 0) return;
  if ((flags & MAP_ANONYMOUS) == 0 || (flags & (MAP_LOCKED | MAP_HUGETLB)) != 0) return;
  if ((flags & kKind) == MAP_PRIVATE) append(out.lazy, range.begin, range.end);
  if ((flags & kKind) == kDroppable) append(out.droppable, range.begin, range.end);
}

Mappings mappings_of(int images, pid_t pid) {
  const base::Fd file = base::open_at(images, std::format("mm-{}.img", pid), O_RDONLY | O_NOFOLLOW);
  const auto image = read_image(file.get());
  Mappings found;
  ImageReader records = ImageReader::of_image(image);
  for (ImageReader mm = records.record(); !mm.done();)
    if (const ImageField f = mm.field(); f.number == kMmVma) add_mapping(mm.inside(f), found);
  return {in_order(std::move(found.lazy)), in_order(std::move(found.droppable))};
}

void put_number(std::string& out, unsigned field, uint64_t value) {
  for (uint64_t number : {uint64_t{field} << 3, value}) {
    for (; number >= 0x80; number >>= 7) out += static_cast<char>((number & 0x7f) | 0x80);
    out += static_cast<char>(number);
  }
}

/// As write_pagemap_loc() of criu/page-xfer.c.
void put_lazy(std::string& out, const AddressRange& pages) {
  std::string entry;
  const uint64_t count = pages.size() / kPage;
  put_number(entry, kMapAddress, pages.begin);
  put_number(entry, kMapPages32, std::min<uint64_t>(count, UINT32_MAX));
  put_number(entry, kMapFlags, kLazy);
  put_number(entry, kMapPages, count);
  out += static_cast<char>(entry.size());  // 4 numbers take 35 bytes at most
  out.append(3, '\0');
  out += entry;
}

AddressRange pages_of(ImageReader entry) {
  uint64_t address = 0, count = 0, count32 = 0;
  while (!entry.done()) {
    const ImageField f = entry.field();
    if (f.number == kMapAddress) address = f.value;
    if (f.number == kMapPages32) count32 = f.value;
    if (f.number == kMapPages) count = f.value;
  }
  return {address, address + (count != 0 ? count : count32) * kPage};
}

}  // namespace

void add_lazy_pages(int images, pid_t pid, const std::vector<AddressRange>& pages) {
  const Mappings mappings = mappings_of(images, pid);
  std::vector<AddressRange> wanted, strange;
  for (const AddressRange& range : pages) subtract(range, mappings.droppable, wanted);
  for (const AddressRange& range : wanted) subtract(range, mappings.lazy, strange);
  if (!strange.empty())
    throw base::error("memory of process {} at {:#x} would not come back from CRIU's images", pid,
                      strange.front().begin)
        .hint("the box goes on here; --mode stop moves it in another way. Please report this");

  const base::Fd file = base::open_at(images, std::format("pagemap-{}.img", pid), O_RDWR | O_NOFOLLOW);
  const auto image = read_image(file.get());
  const std::string_view bytes(reinterpret_cast<const char*>(image.data()), image.size());
  ImageReader records = ImageReader::of_image(image);
  records.record();  // the head
  std::string changed(bytes.substr(0, records.place()));
  uint64_t end = 0;  // of what was written last
  auto check = [&](const AddressRange& range) {
    if (range.begin < end) throw base::error("CRIU has lazy memory of process {} at {:#x}", pid, range.begin);
    end = range.end;
  };
  auto next = wanted.begin();
  while (!records.done()) {
    const size_t place = records.place();
    const AddressRange theirs = pages_of(records.record());
    for (; next != wanted.end() && next->begin < theirs.begin; ++next) {
      check(*next);
      put_lazy(changed, *next);
    }
    check(theirs);
    changed += bytes.substr(place, records.place() - place);
  }
  for (; next != wanted.end(); ++next) {
    check(*next);
    put_lazy(changed, *next);
  }
  if (::pwrite(file.get(), changed.data(), changed.size(), 0) != static_cast<ssize_t>(changed.size()))
    throw base::sys_error("cannot change the image of process {}'s pages", pid);
}

}  // namespace box
