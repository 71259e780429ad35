// A checkpoint's file, as anybody might hand it over. As it is, it is refused; with a signature of a trusted
// node behind it, it is read to its end or refused on the way.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/mount.h"
#include "migrate/checkpoint_file.h"

namespace {

using migrate::CheckpointReader;
using migrate::Part;

struct Node {
  base::TempDir directory = base::TempDir::make("/tmp", "fuzz-checkpoint-");
  base::Keys keys{directory.path()}, strangers{directory.path() + "/none"};
};

CheckpointReader reader_of(std::string_view content) {
  base::Fd fd(::memfd_create("checkpoint", MFD_CLOEXEC));
  if (!fd) throw base::sys_error("memfd_create");
  base::write_full(fd.get(), content, "the file");
  return {std::move(fd), "the file"};
}

bool accepts(std::string_view content, const base::Keys& keys) {
  try {
    reader_of(content).verify(keys);
  } catch (const base::Error&) {
    return false;
  }
  return true;
}

/// Reads what has been verified, as a restore does.
void read_all(CheckpointReader& reader) {
  std::byte small[3], large[300'000];
  while (reader.next_tree()) {
    migrate::ZstdSource source(reader);
    try {
      while (true) {
        source.read_exact(small);
        source.read_exact(large);
      }
    } catch (const base::Error& e) {
      if (!std::string_view(e.what()).contains("ended its data too early")) throw;
    }
    source.finish();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static Node node;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  if (accepts(input, node.strangers)) std::abort();

  base::Blake2b hash;
  hash.add(std::as_bytes(std::span(input)));
  const std::string signature = node.keys.sign(hash.digest(), "fuzz");
  std::string whole(input);
  whole += static_cast<char>(Part::kSignature);
  for (int shift : {0, 8, 16, 24}) whole += static_cast<char>(signature.size() >> shift);
  whole += signature;
  if (accepts(whole, node.strangers) || accepts(whole + "x", node.keys)) std::abort();
  try {
    CheckpointReader reader = reader_of(whole);
    reader.verify(node.keys);
    read_all(reader);
  } catch (const base::Error&) {
    // Refused: what it was for.
  }
  return 0;
}
