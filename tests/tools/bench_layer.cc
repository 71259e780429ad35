// What ci/benchmarks/layer.py measures: the rounds of a private layer between two directories of this
// machine, through zstd and frames as between two nodes.
//
//     bench_layer FROM TO      live rounds; says "ready" on stdout; after a line on stdin the final one
//
// The final round's cost is printed as one JSON object. TO must be empty.

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/socket.h>
#include <sys/stat.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <future>
#include <iostream>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "migrate/stream.h"
#include "migrate/tree.h"

namespace {

using Clock = std::chrono::steady_clock;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

struct Rounds {
  Rounds(const std::string& from, const std::string& to)
      : source(base::open(from, O_RDONLY | O_DIRECTORY)),
        destination(base::open(to, O_RDONLY | O_DIRECTORY)) {
    int pair[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) throw base::sys_error("socketpair");
    near = base::Fd(pair[0]);
    far = base::Fd(pair[1]);
    watch = migrate::ChangeWatch::start(source.get());
    blocks = migrate::BlockWatch::start(source.get());
    if (!watch || !blocks) throw base::error("changes cannot be watched here");
    for (const auto& entry : std::filesystem::directory_iterator(from)) {
      struct stat status{};
      if (::stat(entry.path().c_str(), &status) == 0 && S_ISREG(status.st_mode))
        open.emplace(status.st_dev, status.st_ino);
    }
  }

  migrate::TreeStats round(bool final) {
    migrate::Wire out(near.get(), near.get()), in(far.get(), far.get());
    auto received = std::async(std::launch::async, [&] {
      migrate::ZstdSource stream(in);
      migrate::receive_tree(destination.get(), stream);
      stream.finish();
    });
    migrate::ZstdSink sink(out);
    migrate::SendOptions options;
    options.final = final;
    options.watch = watch.get();
    options.blocks = blocks.get();
    options.open = open;
    migrate::TreeStats stats = send_tree(source.get(), sink, last, options);
    sink.finish();
    received.get();
    wire_bytes = in.bytes_received();
    return stats;
  }

  base::Fd source, destination, near, far;
  std::unique_ptr<migrate::ChangeWatch> watch;
  std::unique_ptr<migrate::BlockWatch> blocks;
  migrate::FileSet open;  ///< files at the root of the tree: as a database has its own
  migrate::TreeSnapshot last;
  uint64_t wire_bytes = 0;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  try {
    Rounds rounds(argv[1], argv[2]);
    for (int i = 0; i < 4; ++i)
      if (rounds.round(false).dirty == 0 && i > 0) break;
    std::puts("ready");
    std::fflush(stdout);
    std::string line;
    std::getline(std::cin, line);
    const auto start = Clock::now();
    const auto stats = rounds.round(true);
    const nlohmann::json out = {{"ms", ms_since(start)},      {"wire_bytes", rounds.wire_bytes},
                                {"bytes", stats.bytes},       {"read", stats.read},
                                {"looked_at", stats.scanned}, {"entries", stats.entries + stats.removed}};
    std::puts(out.dump().c_str());
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
