// Signals, timers, terminals and job control.
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <pty.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "kinds.h"

namespace {

volatile sig_atomic_t g_caught, g_value;

void on_signal(int, siginfo_t* info, void*) {
  g_caught = g_caught + 1;
  g_value = info->si_value.sival_int;
}

void handle(int number, int flags = 0) {
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | flags;
  must(sigaction(number, &action, nullptr), "sigaction");
}

sigset_t set_of(std::initializer_list<int> numbers) {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : numbers) sigaddset(&set, number);
  return set;
}

siginfo_t next_signal(int number) {
  const sigset_t set = set_of({number});
  siginfo_t info{};
  const timespec patience{3, 0};
  must(sigtimedwait(&set, &info, &patience), "signal " + std::to_string(number));
  return info;
}

Check pending_signals() {
  const sigset_t set = set_of({SIGUSR2, SIGRTMIN + 3, SIGRTMIN + 4});
  sigprocmask(SIG_BLOCK, &set, nullptr);
  auto queue = [] {
    kill(getpid(), SIGUSR2);
    for (int value : {11, 22, 33}) sigqueue(getpid(), SIGRTMIN + 3, {.sival_int = value});
    pthread_sigqueue(pthread_self(), SIGRTMIN + 4, {.sival_int = 44});
  };
  queue();
  return [=] {
    same(next_signal(SIGUSR2).si_pid, getpid(), "the sender");
    for (int value : {11, 22, 33})
      same(next_signal(SIGRTMIN + 3).si_value.sival_int, value, "the value of a queued signal");
    same(next_signal(SIGRTMIN + 4).si_value.sival_int, 44, "the value of a signal to the thread");
    sigset_t left;
    sigpending(&left);
    require(!sigismember(&left, SIGRTMIN + 3), "there are more of them");
    queue();
  };
}

Check signal_handlers() {
  static char stack[65536];
  const stack_t alternate{.ss_sp = stack, .ss_flags = 0, .ss_size = sizeof stack};
  must(sigaltstack(&alternate, nullptr), "sigaltstack");
  handle(SIGHUP, SA_ONSTACK | SA_RESTART);
  signal(SIGTERM, SIG_IGN);
  return [] {
    const int before = g_caught;
    raise(SIGHUP);
    same(static_cast<int>(g_caught), before + 1, "calls of the handler");
    raise(SIGTERM);
    stack_t now{};
    sigaltstack(nullptr, &now);
    require(now.ss_sp == stack && now.ss_size == sizeof stack, "the signal stack is another one");
    struct sigaction action{};
    sigaction(SIGHUP, nullptr, &action);
    require(action.sa_flags & SA_ONSTACK && action.sa_flags & SA_RESTART, "the handler's flags are lost");
  };
}

Check signalfds() {
  const sigset_t set = set_of({SIGUSR2, SIGRTMIN + 5});
  sigprocmask(SIG_BLOCK, &set, nullptr);
  const int fd = must(signalfd(-1, &set, SFD_NONBLOCK), "signalfd");
  auto queue = [] { sigqueue(getpid(), SIGRTMIN + 5, {.sival_int = 55}); };
  queue();
  return [=] {
    signalfd_siginfo info{};
    same(must(read(fd, &info, sizeof info), "read"), static_cast<ssize_t>(sizeof info), "what is read");
    same(info.ssi_int, 55, "its value");
    kill(getpid(), SIGUSR2);
    same(must(read(fd, &info, sizeof info), "read"), static_cast<ssize_t>(sizeof info), "what is read");
    same(info.ssi_signo, uint32_t{SIGUSR2}, "the signal");
    queue();
  };
}

Check posix_timers() {
  timer_t often, late, removed, boot;
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGRTMIN + 6;
  event.sigev_value.sival_int = 66;
  handle(SIGRTMIN + 6, SA_RESTART);
  must(timer_create(CLOCK_MONOTONIC, &event, &removed), "timer_create");
  must(timer_create(CLOCK_MONOTONIC, &event, &often), "timer_create");
  must(timer_create(CLOCK_REALTIME, &event, &late), "timer_create");
  must(timer_create(CLOCK_BOOTTIME, &event, &boot), "timer_create");
  timer_delete(removed);  // so the ids have a gap
  const itimerspec fast{{0, 20'000'000}, {0, 20'000'000}}, slow{{0, 0}, {1000, 0}};
  must(timer_settime(often, 0, &fast, nullptr), "timer_settime");
  must(timer_settime(late, 0, &slow, nullptr), "timer_settime");
  must(timer_settime(boot, 0, &slow, nullptr), "timer_settime");
  return [=] {
    const int before = g_caught;
    until("the timer ticks", [=] { return g_caught > before + 3; });
    same(static_cast<int>(g_value), 66, "its value");
    for (timer_t timer : {late, boot}) {
      itimerspec left{};
      must(timer_gettime(timer, &left), "timer_gettime");
      require(left.it_value.tv_sec > 800 && left.it_value.tv_sec <= 1000,
              "left: " + std::to_string(left.it_value.tv_sec));
    }
  };
}

Check interval_timers() {
  handle(SIGALRM, SA_RESTART);
  const itimerval fast{{0, 20000}, {0, 20000}}, slow{{5, 0}, {500, 0}};
  must(setitimer(ITIMER_REAL, &fast, nullptr), "setitimer");
  must(setitimer(ITIMER_VIRTUAL, &slow, nullptr), "setitimer");
  must(setitimer(ITIMER_PROF, &slow, nullptr), "setitimer");
  return [] {
    const int before = g_caught;
    until("the timer ticks", [=] { return g_caught > before + 3; });
    for (const auto which : {ITIMER_VIRTUAL, ITIMER_PROF}) {
      itimerval left{};
      must(getitimer(which, &left), "getitimer");
      require(left.it_value.tv_sec > 400 && left.it_interval.tv_sec == 5, "a timer of CPU time is lost");
    }
  };
}

/// They go on where they stood, on whichever machine.
Check clocks() {
  auto now = [](clockid_t clock) {
    timespec t{};
    clock_gettime(clock, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
  };
  const double monotonic = now(CLOCK_MONOTONIC), boot = now(CLOCK_BOOTTIME), real = now(CLOCK_REALTIME);
  return [=] {
    const double passed = now(CLOCK_REALTIME) - real;
    for (const double gone : {now(CLOCK_MONOTONIC) - monotonic, now(CLOCK_BOOTTIME) - boot})
      require(gone > 0 && gone < passed + 1,
              std::to_string(gone) + " s passed, by the wall " + std::to_string(passed));
  };
}

/// A sleep that the move ends too early, as a signal would, or not at all: both are what its program expects.
Check sleeps() {
  const pid_t pid = child([] {
    const timespec three{3, 0};
    pollfd nothing{-1, 0, 0};
    fd_set none;
    FD_ZERO(&none);
    for (;;) {
      timespec end{};
      timeval wait{3, 0};
      require(nanosleep(&three, nullptr) == 0 || errno == EINTR, "nanosleep");
      require(poll(&nothing, 1, 3000) == 0 || errno == EINTR, "poll");
      clock_gettime(CLOCK_MONOTONIC, &end);
      end.tv_sec += 3;
      const int how = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &end, nullptr);
      require(how == 0 || how == EINTR, "clock_nanosleep");
      require(select(0, &none, nullptr, nullptr, &wait) == 0 || errno == EINTR, "select");
    }
  });
  return [=] { same(waitpid(pid, nullptr, WNOHANG), pid_t{0}, "the sleeper's end"); };
}

char state_of(pid_t pid) { return status_of(pid, "State")[0]; }

Check stopped() {
  const pid_t pid = child([] {
    for (;;) pause();
  });
  kill(pid, SIGSTOP);
  int status = 0;
  same(waitpid(pid, &status, WUNTRACED), pid, "the stopped child");
  const pid_t unseen = child([] {
    for (;;) pause();
  });
  kill(unseen, SIGSTOP);
  until("the other stops", [=] { return state_of(unseen) == 'T'; });
  return [=, first = true]() mutable {
    same(std::string(1, state_of(pid)), "T", "the state of the stopped one");
    same(std::string(1, state_of(unseen)), "T", "the state of the other stopped one");
    if (first) {
      int how = 0;
      same(waitpid(unseen, &how, WUNTRACED | WNOHANG), unseen, "the stop that nobody had seen yet");
    }
    first = false;
    kill(pid, SIGCONT);
    until("it goes on", [=] { return state_of(pid) == 'S'; });
    kill(pid, SIGSTOP);
    until("it stops again", [=] { return state_of(pid) == 'T'; });
    int how = 0;
    waitpid(pid, &how, WUNTRACED | WCONTINUED | WNOHANG);
  };
}

Check zombie() {
  const pid_t pid = child([] { _exit(42); }), killed = child([] { raise(SIGKILL); });
  until("they end", [=] { return state_of(pid) == 'Z' && state_of(killed) == 'Z'; });
  return [=, first = true]() mutable {
    if (!first) return;
    first = false;
    same(WEXITSTATUS(wait_for(pid)), 42, "its status");
    same(WTERMSIG(wait_for(killed)), SIGKILL, "what ended the other");
  };
}

/// Everything that a terminal says until `what` is in it.
std::string says(int terminal, const std::string& what) {
  std::string all;
  while (!all.contains(what)) {
    pollfd p{terminal, POLLIN, 0};
    if (poll(&p, 1, 5000) != 1) throw Failed{"instead of \"" + what + "\" the terminal says \"" + all + "\""};
    all += read_some(terminal);
  }
  return all;
}

/// A shell on a terminal of its own, as sshd or screen start one.
int shell(pid_t& pid) {
  int master = 0;
  const winsize size{33, 111, 0, 0};
  pid = must(forkpty(&master, nullptr, nullptr, &size), "forkpty");
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    setenv("PS1", "$ ", 1);
    execl("/bin/bash", "bash", "--norc", "--noediting", "-i", nullptr);
    _exit(127);
  }
  return master;
}

Check terminal_shell() {
  pid_t pid = 0;
  const int terminal = shell(pid);
  write_all(terminal, "here=mine; echo re\"\"ady\n");
  says(terminal, "ready");
  return [=, n = 0]() mutable {
    ++n;
    write_all(terminal, "echo $here $((6 * " + std::to_string(n) + "))\n");
    says(terminal, "mine " + std::to_string(6 * n));
    write_all(terminal, "stty size </dev/tty\n");
    says(terminal, "33 111");
    write_all(terminal, "sleep 1000\n");  // ^C reaches what is in the foreground
    usleep(300000);
    write_all(terminal, "\003echo go\"\"es on\n");
    says(terminal, "goes on");
  };
}

Check stopped_job() {
  pid_t pid = 0;
  const int terminal = shell(pid);
  write_all(terminal, "sleep 1111\n");
  usleep(300000);
  write_all(terminal, "\032");
  says(terminal, "topped");
  return [=] {
    write_all(terminal, "jobs; echo en\"\"d\n");
    require(says(terminal, "end").contains("topped"), "the job is not stopped any more");
    write_all(terminal, "fg\n");
    usleep(300000);
    write_all(terminal, "\032");
    says(terminal, "topped");
  };
}

Check raw_terminal() {
  int master = 0, slave = 0;
  must(openpty(&master, &slave, nullptr, nullptr, nullptr), "openpty");
  termios settings{};
  must(tcgetattr(slave, &settings), "tcgetattr");
  cfmakeraw(&settings);
  settings.c_cc[VMIN] = 3;
  must(tcsetattr(slave, TCSANOW, &settings), "tcsetattr");
  return [=] {
    termios now{};
    must(tcgetattr(slave, &now), "tcgetattr");
    same(now.c_lflag, settings.c_lflag, "c_lflag");
    same(now.c_oflag, settings.c_oflag, "c_oflag");
    same(static_cast<int>(now.c_cc[VMIN]), 3, "VMIN");
    write_all(master, "abc");
    same(read_some(slave), "abc", "what comes through");
    write_all(slave, "out");
    same(read_some(master), "out", "what comes back");
  };
}

/// Bytes that nobody has read yet, in both directions.
Check terminal_data() {
  int master = 0, slave = 0;
  must(openpty(&master, &slave, nullptr, nullptr, nullptr), "openpty");
  auto fill = [=] {
    write_all(slave, "out\n");
    write_all(master, "typed ahead\n");
  };
  fill();
  return [=] {
    fcntl(slave, F_SETFL, O_NONBLOCK);
    fcntl(master, F_SETFL, O_NONBLOCK);
    usleep(50000);
    same(drain(slave), "typed ahead\n", "what was typed");
    require(drain(master).contains("out\r"), "what was printed is lost");
    fill();
  };
}

}  // namespace

const Kind kSignalKinds[] = {{"pending-signals", pending_signals},
                             {"signal-handlers", signal_handlers},
                             {"signalfd", signalfds},
                             {"posix-timers", posix_timers},
                             {"interval-timers", interval_timers},
                             {"clocks", clocks},
                             {"sleeps", sleeps},
                             {"stopped", stopped},
                             {"zombie", zombie},
                             {"terminal-shell", terminal_shell},
                             {"stopped-job", stopped_job},
                             {"raw-terminal", raw_terminal},
                             {"terminal-data", terminal_data},
                             {}};
