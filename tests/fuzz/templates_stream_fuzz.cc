// A template stream whose other end is hostile. An input that begins with 's' is what a sender hears,
// one that begins with 'o' follows upon a good offer to a receiver, any other is all that a receiver hears.

#include <signal.h>
#include <sys/socket.h>

#include <cstdint>
#include <cstdlib>
#include <functional>
#include <string>
#include <thread>

#include "base/context.h"
#include "base/error.h"
#include "base/mount.h"
#include "templates/store.h"

namespace {

using templates::Store;

/// A store with one signed version of one small layer, which is not an image.
struct Sample {
  Sample() {
    ::signal(SIGPIPE, SIG_IGN);
    Store::Hold hold = store.hold();
    base::make_directories(store.scratch_dir());
    std::string file = store.scratch_dir() + "/layer";
    base::write_file(file, "the bytes of a layer");
    templates::Manifest manifest;
    manifest.name = "x";
    manifest.version = "2026112101";
    manifest.fingerprint = "sha256:" + std::string(64, '0');
    manifest.layers = {{.digest = templates::digest_of_file(file), .bytes = 20}};
    manifest.start.init = {"/sbin/init"};
    store.adopt_layer(file, manifest.layers[0], hold);
    std::string json = manifest.render(), signature = store.keys().sign(json, "x");
    store.add_version(manifest, json, signature, hold);
    uint32_t n = static_cast<uint32_t>(json.size());
    std::string payload = "drovtpl1" + std::string(reinterpret_cast<const char*>(&n), 4) + json + signature;
    n = static_cast<uint32_t>(payload.size());
    offer = "\x01" + std::string(reinterpret_cast<const char*>(&n), 4) + payload;
    base::make_directories(directory.path() + "/other/keys");
    base::write_file(directory.path() + "/other/keys/x.pub",
                     base::read_file(directory.path() + "/keys/local.pub"));
  }
  base::TempDir directory = base::TempDir::make("/tmp", "fuzz-stream-");
  Store store{directory.path()}, other{directory.path() + "/other"};
  std::string offer;
};

/// Calls `listen` with a socket on which exactly `input` arrives.
void with_input(std::string_view input, const std::function<void(int)>& listen) {
  int pair[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) throw base::sys_error("socketpair");
  base::Fd near(pair[0]), far(pair[1]);
  std::jthread speaker([&] {
    (void)!::send(near.get(), input.data(), input.size(), MSG_NOSIGNAL);
    ::shutdown(near.get(), SHUT_WR);
  });
  try {
    listen(far.get());
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  far.close();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Sample sample;
  base::ProcessRunner runner;
  auto progress = base::make_progress(base::Talk::kSilent);
  base::Clock clock;
  base::Context context{.runner = runner, .progress = *progress, .clock = clock};
  std::string input(reinterpret_cast<const char*>(data), size);
  char kind = input.empty() ? ' ' : input[0];
  if (kind == 's') {
    with_input(input.substr(1), [&](int fd) { templates::send_missing(context, sample.store, "x", fd, fd); });
    return 0;
  }
  if (kind == 'o') input = sample.offer + input.substr(1);
  with_input(input, [&](int fd) {
    templates::receive(context, sample.other, fd, fd);
    // Only the right bytes make it a version.
    sample.other.verify_layer(sample.other.resolve("x").layers[0]);
    base::remove_tree(sample.other.state_dir() + "/templates");
    base::remove_tree(sample.other.state_dir() + "/layers");
  });
  if (sample.other.find("x")) std::abort();
  return 0;
}
