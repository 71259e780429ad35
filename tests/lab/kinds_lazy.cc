// Private memory of every sort, of which most is dumped without CRIU looking at it (box/lazy_memory.h).
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <vector>

#include "kinds.h"

namespace {

constexpr size_t kPage = 4096, kPart = 2 << 20, kPagesOfPart = kPart / kPage;
constexpr int kGuardInstall = 102;  // MADV_GUARD_INSTALL of Linux 6.13
constexpr int kDroppable = 0x08;    // MAP_DROPPABLE of Linux 6.11
constexpr size_t kChildren = 6;

char* map(size_t size, int flags = 0, int fd = -1) {
  flags |= fd >= 0 ? MAP_PRIVATE : (flags & kDroppable) != 0 ? MAP_ANONYMOUS : MAP_PRIVATE | MAP_ANONYMOUS;
  return static_cast<char*>(must_map(mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, fd, 0), "mmap"));
}

/// What stands at both ends of a page; nothing in one that is to be zero.
void put(char* page, uint64_t number) {
  std::memcpy(page, &number, sizeof number);
  std::memcpy(page + kPage - sizeof number, &number, sizeof number);
}
bool holds(const char* page, uint64_t number) {
  uint64_t first = 0, last = 0;
  std::memcpy(&first, page, sizeof first);
  std::memcpy(&last, page + kPage - sizeof last, sizeof last);
  return first == number && last == number;
}
constexpr uint64_t number_of(size_t page, uint64_t writer = 0) { return (writer << 40) + page + 1; }

void fill(char* at, size_t pages, uint64_t writer = 0) {
  for (size_t i = 0; i < pages; ++i) put(at + i * kPage, number_of(i, writer));
}
template <class Number>
void require_pages(const char* at, size_t pages, const std::string& what, Number number) {
  for (size_t i = 0; i < pages; ++i)
    require(holds(at + i * kPage, number(i)), what + ", page " + std::to_string(i));
}
uint64_t as_filled(size_t page) { return number_of(page); }

struct Shared {
  volatile int turn, done[2 * kChildren];
};

/// Each third page is a child's own; the others are its parent's, until one of the two writes.
void write_own(char* at, uint64_t writer) {
  for (size_t i = writer % 3; i < kPagesOfPart; i += 3) put(at + i * kPage, number_of(i, writer));
}
bool has_own(const char* at, uint64_t writer, uint64_t above) {
  for (size_t i = 0; i < kPagesOfPart; ++i) {
    const bool own = i % 3 == writer % 3, parents = above != 0 && i % 3 == above % 3;
    if (!holds(at + i * kPage, number_of(i, own ? writer : parents ? above : 0))) return false;
  }
  return true;
}
/// Answers each turn with it, or with its negative.
[[noreturn]] void answer(Shared* shared, char* at, uint64_t writer, uint64_t above) {
  for (volatile int& done = shared->done[writer - 1];; usleep(3000))
    if (const int turn = shared->turn; std::abs(done) != turn)
      done = has_own(at, writer, above) ? turn : -turn;
}

/// Children and a child of each.
Shared* start_family(char* at) {
  auto* shared = static_cast<Shared*>(must_map(
      mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0), "mmap"));
  for (uint64_t n = 1; n <= kChildren; ++n)
    child([=] {
      write_own(at, n);
      child([=] {
        write_own(at, n + kChildren);
        answer(shared, at, n + kChildren, n);
      });
      answer(shared, at, n, 0);
    });
  usleep(300000);
  return shared;
}

void* in_other_stack(void* told) {
  volatile char local[64 << 10];
  for (size_t i = 0; i < sizeof local; ++i) local[i] = static_cast<char>(i * 7);
  for (auto* turn = static_cast<volatile int*>(told);; usleep(3000)) {
    if (turn[0] == turn[1]) continue;
    bool good = true;
    for (size_t i = 0; i < sizeof local; ++i) good = good && local[i] == static_cast<char>(i * 7);
    turn[1] = good ? turn[0] : -1;
  }
}

/// A thread whose stack is in the middle of large memory.
volatile int* start_thread(char* stack, size_t size) {
  static volatile int turns[2];
  pthread_attr_t about;
  pthread_attr_init(&about);
  pthread_attr_setstack(&about, stack, size);
  pthread_t thread;
  require(pthread_create(&thread, &about, in_other_stack, const_cast<int*>(turns)) == 0, "pthread_create");
  pthread_detach(thread);
  return turns;
}

Check lazy_memory() {
  enum { kPlain, kReadOnly, kNoAccess, kNoFork, kHuge, kHoles, kZeros, kGuarded, kStack, kParts };
  // Unequal neighbours, so that each part is a mapping of its own, or part of one.
  char* const at = map(kParts * kPart);
  auto part = [=](size_t number) { return at + number * kPart; };
  for (const size_t each : {kPlain, kReadOnly, kNoAccess, kNoFork, kHuge, kHoles, kGuarded})
    fill(part(each), kPagesOfPart);
  char* const family = map(kPart);
  fill(family, kPagesOfPart);
  Shared* const shared = start_family(family);  // they share all the rest, too

  for (size_t i = 0; i < kPagesOfPart; i += 2)
    must(madvise(part(kHoles) + i * kPage, kPage, MADV_DONTNEED), "madvise");
  for (size_t i = 0; i < kPagesOfPart; ++i) (void)*static_cast<volatile char*>(part(kZeros) + i * kPage);
  const bool guards = madvise(part(kGuarded) + 7 * kPage, 3 * kPage, kGuardInstall) == 0;
  must(madvise(part(kHuge), kPart, MADV_HUGEPAGE), "madvise");
  must(madvise(part(kNoFork), kPart, MADV_DONTFORK), "madvise");
  must(mprotect(part(kReadOnly), kPart, PROT_READ), "mprotect");
  must(mprotect(part(kNoAccess), kPart, PROT_NONE), "mprotect");
  volatile int* const turns = start_thread(part(kStack), kPart);

  // A file's memory with pages of its own, sparse memory, and what the kernel may take away, in small and
  // large.
  write_file("file", std::string(kPart, 'f'));
  const int fd = must(open("file", O_RDONLY), "file");
  char* const of_file = map(kPart, 0, fd);
  close(fd);
  for (size_t i = 0; i < kPagesOfPart; i += 5) put(of_file + i * kPage, number_of(i));
  char* const sparse = map(size_t{1} << 32, MAP_NORESERVE);
  for (size_t i = 0; i < 64; ++i) put(sparse + (i << 26), number_of(i));
  for (const size_t size : {2 * kPage, kPart})
    if (void* may_go = mmap(nullptr, size, PROT_READ | PROT_WRITE, kDroppable | MAP_ANONYMOUS, -1, 0);
        may_go != MAP_FAILED)
      std::memset(may_go, 1, size);
  std::vector<char*> small;
  for (size_t i = 0; i < 100; ++i) {  // too small to be worth it, apart from one another
    small.push_back(map(3 * kPage));
    put(small.back(), number_of(i));
    must(munmap(small.back() + kPage, kPage), "munmap");
  }

  return [=, n = 0]() mutable {
    ++n;
    shared->turn = n;
    turns[0] = n;
    require_pages(part(kPlain), kPagesOfPart, "plain memory", as_filled);
    require_pages(part(kReadOnly), kPagesOfPart, "memory that can only be read", as_filled);
    require_pages(part(kNoFork), kPagesOfPart, "memory without fork", as_filled);
    require_pages(part(kHuge), kPagesOfPart, "memory in huge pages", as_filled);
    require_pages(part(kHoles), kPagesOfPart, "memory with holes",
                  [](size_t i) { return i % 2 == 0 ? 0 : number_of(i); });
    require_pages(part(kZeros), kPagesOfPart, "memory of zeros", [](size_t) { return 0; });
    must(mprotect(part(kNoAccess), kPart, PROT_READ), "mprotect");
    require_pages(part(kNoAccess), kPagesOfPart, "memory without access", as_filled);
    must(mprotect(part(kNoAccess), kPart, PROT_NONE), "mprotect");
    require_pages(part(kGuarded), 7, "memory before a guard", as_filled);
    if (guards) {
      int ends[2];
      must(pipe(ends), "pipe");
      require(write(ends[1], part(kGuarded) + 8 * kPage, 1) < 0 && errno == EFAULT, "the guard is gone");
      close(ends[0]);
      close(ends[1]);
    }
    require_pages(part(kGuarded) + 10 * kPage, kPagesOfPart - 10, "memory behind a guard",
                  [](size_t i) { return number_of(i + 10); });
    require_pages(family, kPagesOfPart, "memory that children have written to", as_filled);
    for (size_t i = 0; i < kPagesOfPart; ++i)
      require(i % 5 == 0 ? holds(of_file + i * kPage, number_of(i)) : of_file[i * kPage] == 'f',
              "memory of a file, page " + std::to_string(i));
    for (size_t i = 0; i < 64; ++i) require(holds(sparse + (i << 26), number_of(i)), "sparse memory");
    require(holds(sparse + kPage, 0), "sparse memory without a page");
    for (size_t i = 0; i < small.size(); ++i) require(holds(small[i], number_of(i)), "small memory");
    until("the thread has looked", [=] { return std::abs(turns[1]) == n || turns[1] == -1; });
    same(int{turns[1]}, n, "the thread's answer");
    for (const volatile int& done : shared->done) {
      until("each child has looked", [&] { return std::abs(done) == n; });
      same(int{done}, n, "a child's answer");
    }
  };
}

}  // namespace

const Kind kLazyKinds[] = {{"lazy-memory", lazy_memory}, {}};
