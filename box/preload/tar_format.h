#pragma once
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>

// The images stay as CRIU's are: a gzip file (RFC 1952) with a tar archive (ustar of POSIX.1, with two blocks
// of zeros at its end) in it, which any tar reads. It is in stored blocks (RFC 1951): images are compressed
// on their way, and as they are small this is what makes no work. These stored blocks are also the only ones
// that unpack_tmpfs() takes.
namespace box {

inline constexpr size_t kBlock = 512;
inline constexpr size_t kMostArchive = 1 << 20;  ///< bytes: what is larger takes its time with tar as well

struct Header {
  char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], sum[8], type, link[100], magic[8], uname[32],
      gname[32], major[8], minor[8], prefix[155], rest[12];
};
static_assert(sizeof(Header) == kBlock);

enum Type : char { kFile = '0', kLink = '2', kDirectory = '5', kFifo = '6' };

inline constexpr unsigned char kGzip[10] = {0x1f, 0x8b, 8 /* deflate */, 0, 0, 0, 0, 0,
                                            0,    255 /* of no system */};

class Closing {
 public:
  explicit Closing(int fd) : fd_(fd) {}
  Closing(const Closing&) = delete;
  Closing& operator=(const Closing&) = delete;
  ~Closing() {
    if (fd_ >= 0) ::close(fd_);
  }
  operator int() const { return fd_; }

 private:
  const int fd_;
};

/// Memory of kMostArchive bytes; nullptr: there is none. It goes with the process.
inline unsigned char* memory() {
  void* const got = ::mmap(nullptr, kMostArchive, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return got == MAP_FAILED ? nullptr : static_cast<unsigned char*>(got);
}

/// False: it does not fit into a header.
template <size_t N>
bool put_number(char (&field)[N], uint64_t number) {
  field[N - 1] = '\0';
  for (size_t i = N - 1; i-- > 0; number >>= 3) field[i] = static_cast<char>('0' + (number & 7));
  return number == 0;
}

template <size_t N>
bool get_number(const char (&field)[N], uint64_t& number) {
  number = 0;
  for (size_t i = 0; i < N - 1; ++i) {
    if (field[i] < '0' || field[i] > '7') return false;
    number = number << 3 | static_cast<uint64_t>(field[i] - '0');
  }
  return field[N - 1] == '\0';
}

/// With the field of the sum as blanks.
inline uint64_t sum_of(Header header) {
  std::memset(header.sum, ' ', sizeof header.sum);
  uint64_t sum = 0;
  for (size_t i = 0; i < sizeof header; ++i) sum += reinterpret_cast<const unsigned char*>(&header)[i];
  return sum;
}

inline uint32_t crc_of(const unsigned char* data, size_t size) {
  std::array<uint32_t, 256> table;
  for (uint32_t i = 0; i < table.size(); ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? 0xedb88320 : 0);
    table[i] = crc;
  }
  uint32_t crc = ~0U;
  for (size_t i = 0; i < size; ++i) crc = crc >> 8 ^ table[(crc ^ data[i]) & 0xff];
  return ~crc;
}

inline bool write_all(int fd, const unsigned char* data, size_t size) {
  while (size > 0) {
    const ssize_t wrote = ::write(fd, data, size);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) return false;
    data += wrote;
    size -= static_cast<size_t>(wrote);
  }
  return true;
}

}  // namespace box
