#include "base/spawn.h"

#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"

namespace base {
namespace {

/// What the new process reads in our memory, and where it leaves why it failed.
struct Plan {
  const char* program;
  char* const* argv;
  char* const* env;
  const char* cwd;  ///< nullptr: ours
  int streams[3];
  pid_t parent;
  const char* failed = nullptr;  ///< what could not be done
  int err = 0;
};

int fail(Plan* plan, const char* what) {
  plan->failed = what;
  plan->err = errno;
  return 127;
}

/// The new process, on a stack of its own in our memory (CLONE_VM), while we wait
/// (CLONE_VFORK). Only system calls: no allocation, no lock, no handler of ours.
int become(void* argument) {
  auto* plan = static_cast<Plan*>(argument);
  struct sigaction action = {};
  action.sa_handler = SIG_DFL;
  for (int signal = 1; signal < NSIG; ++signal) ::sigaction(signal, &action, nullptr);
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return fail(plan, "prctl");
  // Our parent may have died before that; 0 is a parent outside our pid namespace.
  if (pid_t parent = ::getppid(); parent != plan->parent && parent != 0) return fail(plan, "find its parent");
  ::setsid();
  for (int i = 0; i < 3; ++i)
    if (::dup2(plan->streams[i], i) < 0) return fail(plan, "set up its streams");
  if (::close_range(3, ~0u, CLOSE_RANGE_CLOEXEC) != 0) return fail(plan, "close descriptors");
  if (plan->cwd != nullptr && ::chdir(plan->cwd) != 0) return fail(plan, "enter its directory");
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(plan->program, plan->argv, plan->env);
  return fail(plan, "exec");
}

/// Where `name` is, or `name` itself. An ordinary user's PATH often lacks sbin, where
/// mke2fs and its like are.
std::string find_program(const std::string& name) {
  if (name.contains('/')) return name;
  const char* own = ::getenv("PATH");
  std::string path = std::string(own != nullptr ? own : "/usr/bin:/bin") + ":/usr/sbin:/sbin";
  for (size_t begin = 0; begin < path.size();) {
    size_t end = std::min(path.find(':', begin), path.size());
    std::string candidate = path.substr(begin, end - begin) + "/" + name;
    if (end > begin && ::access(candidate.c_str(), X_OK) == 0) return candidate;
    begin = end + 1;
  }
  return {};
}

std::vector<std::string> merged_environment(const std::map<std::string, std::string>& added) {
  std::vector<std::string> merged;
  for (char** entry = environ; *entry != nullptr; ++entry) {
    std::string_view text = *entry;
    if (!added.contains(std::string(text.substr(0, text.find('='))))) merged.emplace_back(text);
  }
  for (const auto& [name, value] : added) merged.push_back(name + "=" + value);
  return merged;
}

/// As exec wants it. The strings stay `strings`'.
std::vector<char*> pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& string : strings) pointers.push_back(const_cast<char*>(string.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

/// Memory for the new process's stack; nobody needs it after exec.
class Stack {
 public:
  Stack() {
    if (memory_ == MAP_FAILED) throw sys_error("cannot map a stack");
  }
  Stack(const Stack&) = delete;
  Stack& operator=(const Stack&) = delete;
  ~Stack() { ::munmap(memory_, kSize); }
  [[nodiscard]] void* top() const { return static_cast<char*>(memory_) + kSize; }

 private:
  static constexpr size_t kSize = 256 << 10;
  void* memory_ =
      ::mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
};

}  // namespace

Process spawn(const std::vector<std::string>& argv, const std::map<std::string, std::string>& env,
              const std::string& cwd, int in, int out, int err) {
  std::string program = find_program(argv.at(0));
  if (program.empty())
    throw Error("cannot run " + argv[0], ENOENT)
        .hint(std::format("install the package that has {}, or put it on PATH", argv[0]));
  std::vector<std::string> environment = merged_environment(env);
  std::vector<char*> argv_pointers = pointers(argv), env_pointers = pointers(environment);
  // Copies, none of which is 0, 1 or 2: so no dup2 overwrites one that is still needed.
  Fd streams[] = {duplicate(in), duplicate(out), duplicate(err)};
  Plan plan = {.program = program.c_str(),
               .argv = argv_pointers.data(),
               .env = env_pointers.data(),
               .cwd = cwd.empty() ? nullptr : cwd.c_str(),
               .streams = {streams[0].get(), streams[1].get(), streams[2].get()},
               .parent = ::getpid()};
  Stack stack;

  // No handler of ours may run in the new process: it would act on our memory.
  sigset_t all, ours;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &ours);
  int pidfd = -1;
  pid_t pid = ::clone(become, stack.top(), CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD, &plan, &pidfd);
  int clone_errno = errno;
  ::pthread_sigmask(SIG_SETMASK, &ours, nullptr);
  if (pid < 0) throw Error("cannot start a process for " + argv[0], clone_errno);

  Process process = {.pid = pid, .pidfd = Fd(pidfd)};
  if (plan.failed == nullptr) return process;
  while (::waitpid(pid, nullptr, 0) < 0 && errno == EINTR) continue;
  if (plan.failed == std::string_view("exec")) throw Error("cannot run " + argv[0], plan.err);
  throw Error(std::format("cannot run {}: it could not {}", argv[0], plan.failed), plan.err)
      .context("running: " + argv[0] + (cwd.empty() ? "" : " in " + cwd));
}

}  // namespace base
