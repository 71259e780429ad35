#pragma once
#include <sys/types.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <string>

/// Looks whether what a kind has set up is as it was, throws Failed where it is not, and leaves it ready for
/// one more look.
using Check = std::function<void()>;

/// One thing that a program can have while its box moves.
struct Kind {
  const char* name;
  Check (*set_up)();  ///< in a process and a directory of its own
};

struct Failed {
  std::string why;
};

template <class T>
T must(T result, const std::string& what) {
  if (result < 0) throw Failed{what + ": " + std::strerror(errno)};
  return result;
}

template <class T>
T* must_map(T* at, const std::string& what) {
  if (at == reinterpret_cast<T*>(-1)) throw Failed{what + ": " + std::strerror(errno)};
  return at;
}

inline void require(bool good, const std::string& what) {
  if (!good) throw Failed{what};
}

template <class A, class B>
void same(const A& is, const B& was, const std::string& what) {
  if (!(is == was)) {
    if constexpr (std::is_convertible_v<A, std::string>)
      throw Failed{what + " is \"" + std::string(is) + "\", not \"" + std::string(was) + "\""};
    else
      throw Failed{what + " is " + std::to_string(is) + ", not " + std::to_string(was)};
  }
}

/// A child that runs `body`; its status is 0, or 1 where that threw, which it says.
pid_t child(const std::function<void()>& body);
/// The status that a child ended with, as of waitpid(2).
int wait_for(pid_t pid);
/// A child that must end well.
void in_child(const std::function<void()>& body);
/// Until `condition`, at most ten seconds.
void until(const std::string& what, const std::function<bool()>& condition);

void write_all(int fd, const std::string& data);
/// One read(2) of what is there; empty at the end of the file.
std::string read_some(int fd, size_t most = 65536);
/// All that a descriptor that does not block has to give.
std::string drain(int fd);
std::string read_file(const std::string& path);
void write_file(const std::string& path, const std::string& text);
/// `size` bytes that say where they stand.
std::string pattern(size_t size, unsigned seed);
/// One field of /proc/PID/status.
std::string status_of(pid_t pid, const std::string& key);

extern const Kind kFileKinds[], kMemoryKinds[], kRequestKinds[], kLazyKinds[], kTcpKinds[], kSocketKinds[],
    kSignalKinds[], kProcessKinds[], kRefusedKinds[];
