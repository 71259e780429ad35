// What programs in a box can have while it moves, as one static program.
//
//   kinds serve KIND...  sets up each kind in a process and a directory (/srv/kinds/KIND) of its own; on
//   SIGUSR1,
//                        looks at each. What each says is a line of /srv/kinds/KIND.says: "ready", then "ok"
//                        for each look, or "failed: why"
//                        "start KIND" and "stop KIND" in the FIFO /srv/kinds/orders do the same later
//   kinds list           names every kind
#include "kinds.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

const std::string kDirectory = "/srv/kinds/";

std::vector<Kind> all_kinds() {
  std::vector<Kind> all;
  for (const Kind* table : {kFileKinds, kMemoryKinds, kRequestKinds, kLazyKinds, kTcpKinds, kSocketKinds,
                            kSignalKinds, kProcessKinds, kRefusedKinds})
    for (const Kind* kind = table; kind->name; ++kind) all.push_back(*kind);
  return all;
}

void say(const std::string& path, const std::string& line) {
  const int fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  if (write(fd, (line + "\n").data(), line.size() + 1) < 0) std::abort();
  close(fd);
}

/// The life of one kind's process.
[[noreturn]] void live(const Kind& kind) {
  const std::string says = kDirectory + kind.name + ".says", place = kDirectory + kind.name;
  setsid();
  prctl(PR_SET_NAME, kind.name);
  mkdir(place.c_str(), 0755);
  try {
    must(chdir(place.c_str()), "chdir");
    const Check check = kind.set_up();
    say(says, "ready");
    sigset_t look;
    sigemptyset(&look);
    sigaddset(&look, SIGUSR1);
    for (;;) {
      if (sigwaitinfo(&look, nullptr) != SIGUSR1) continue;
      check();
      say(says, "ok");
    }
  } catch (const Failed& failed) {
    say(says, "failed: " + failed.why);
  }
  for (;;) pause();  // so that what else it has can be looked at
}

int serve(int count, char** names) {
  sigset_t look;
  sigemptyset(&look);
  sigaddset(&look, SIGUSR1);
  sigaddset(&look, SIGCHLD);
  sigprocmask(SIG_BLOCK, &look, nullptr);
  signal(SIGPIPE, SIG_IGN);
  mkdir(kDirectory.c_str(), 0777);
  chmod(kDirectory.c_str(), 0777);
  std::map<std::string, pid_t> children;
  auto start = [&](const std::string& name) {
    for (const Kind& kind : all_kinds()) {
      if (kind.name != name) continue;
      const pid_t pid = fork();
      if (pid == 0) {
        sigset_t only_look = look;
        sigdelset(&only_look, SIGCHLD);
        sigprocmask(SIG_SETMASK, &only_look, nullptr);
        live(kind);
      }
      children[name] = pid;
    }
  };
  for (int i = 0; i < count; ++i) start(names[i]);
  mkfifo((kDirectory + "orders").c_str(), 0600);
  const int orders = open((kDirectory + "orders").c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC);
  say(kDirectory + "serving", std::to_string(getpid()));
  for (;;) {
    const timespec patience{0, 20'000'000};
    if (sigtimedwait(&look, nullptr, &patience) == SIGUSR1)
      for (const auto& [name, pid] : children) kill(pid, SIGUSR1);
    while (waitpid(-1, nullptr, WNOHANG) > 0) {
    }
    std::istringstream words(drain(orders));
    for (std::string verb, name; words >> verb >> name;) {
      if (verb == "start") start(name);
      if (verb == "stop") kill(-children[name], SIGKILL), children.erase(name);
    }
  }
}

}  // namespace

pid_t child(const std::function<void()>& body) {
  const pid_t pid = must(fork(), "fork");
  if (pid != 0) return pid;
  int status = 0;
  try {
    body();
  } catch (const Failed& failed) {
    std::fprintf(stderr, "%s\n", failed.why.c_str());
    say("child.says", failed.why);
    status = 1;
  }
  _exit(status);
}

int wait_for(pid_t pid) {
  int status = 0;
  must(waitpid(pid, &status, 0), "waitpid");
  return status;
}

void in_child(const std::function<void()>& body) {
  const int status = wait_for(child(body));
  if (status != 0)
    throw Failed{"a child ended with " + std::to_string(status) + " " +
                 (access("child.says", F_OK) == 0 ? read_file("child.says") : "")};
}

void until(const std::string& what, const std::function<bool()>& condition) {
  for (int i = 0; i < 1000; ++i) {
    if (condition()) return;
    usleep(10000);
  }
  throw Failed{what + ": not within ten seconds"};
}

void write_all(int fd, const std::string& data) {
  for (size_t done = 0; done < data.size();)
    done += static_cast<size_t>(must(write(fd, data.data() + done, data.size() - done), "write"));
}

std::string read_some(int fd, size_t most) {
  std::string data(most, '\0');
  data.resize(static_cast<size_t>(must(read(fd, data.data(), most), "read")));
  return data;
}

std::string drain(int fd) {
  std::string all, piece(65536, '\0');
  for (;;) {
    const ssize_t n = read(fd, piece.data(), piece.size());
    if (n < 0 && errno != EAGAIN) throw Failed{std::string("read: ") + std::strerror(errno)};
    if (n <= 0) return all;
    all.append(piece, 0, static_cast<size_t>(n));
  }
}

std::string read_file(const std::string& path) {
  const int fd = must(open(path.c_str(), O_RDONLY | O_CLOEXEC), path);
  std::string all;
  for (std::string piece; !(piece = read_some(fd)).empty();) all += piece;
  close(fd);
  return all;
}

void write_file(const std::string& path, const std::string& text) {
  const int fd = must(open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644), path);
  write_all(fd, text);
  close(fd);
}

std::string pattern(size_t size, unsigned seed) {
  std::string data(size, '\0');
  unsigned x = seed * 2654435761U + 1;
  for (char& c : data) {
    x = x * 1664525 + 1013904223;
    c = static_cast<char>(x >> 24);
  }
  return data;
}

std::string status_of(pid_t pid, const std::string& key) {
  const std::string text = "\n" + read_file("/proc/" + std::to_string(pid) + "/status");
  const size_t at = text.find("\n" + key + ":\t");
  if (at == std::string::npos) return {};
  const size_t from = at + key.size() + 3;
  return text.substr(from, text.find('\n', from) - from);
}

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what == "serve") return serve(argc - 2, argv + 2);
  if (what == "list") {
    for (const Kind& kind : all_kinds()) std::puts(kind.name);
    return 0;
  }
  return 2;
}
