#include "templates/copy.h"

#include <sys/mman.h>
#include <unistd.h>

#include <map>

#include "base/child.h"
#include "base/error.h"
#include "base/fd.h"

namespace templates {
namespace {

constexpr auto kToEnd = std::chrono::seconds(10);

/// The last line that the other program wrote to stderr, for a message.
std::string last_words(int fd) {
  std::string text(4096, '\0');
  off_t end = ::lseek(fd, 0, SEEK_END);
  off_t from = std::max<off_t>(0, end - static_cast<off_t>(text.size()));
  ssize_t got = ::pread(fd, text.data(), text.size(), from);
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  for (char& c : text)
    if (static_cast<unsigned char>(c) < ' ' && c != '\n') c = ' ';
  while (text.ends_with('\n') || text.ends_with(' ')) text.pop_back();
  return text.substr(text.rfind('\n') + 1);
}

}  // namespace

uint64_t copy_to(base::Context& context, const Store& store, const std::string& reference,
                 const std::string& node, const std::vector<std::string>& rsh) {
  if (node.empty() || node.starts_with('-'))
    throw base::error("{} is not a node's name", base::quoted({node})).exit(base::Exit::kUsage);
  (void)store.resolve(reference);  // what is not here needs no connection
  std::vector<std::string> argv = rsh;
  argv.insert(argv.end(), {node, "drover-node", "template", "receive"});
  base::Pipe to = base::make_pipe(), from = base::make_pipe();
  base::Fd words(::memfd_create("stderr", MFD_CLOEXEC));
  if (!words) throw base::sys_error("cannot make a memory file");
  base::Child child = base::Child::start(argv, to.read.get(), from.write.get(), words.get());
  to.read.close();
  from.write.close();
  try {
    uint64_t bytes = send_missing(context, store, reference, from.read.get(), to.write.get());
    to.write.close();
    if (auto status = child.wait(kToEnd); !status || *status != 0)
      throw base::error("{} has {}, but its end of the connection failed", node, reference);
    return bytes;
  } catch (base::Error& error) {
    error.context("copying " + reference + " to " + node);
    // A refusal says it all; when the connection never stood, only the other program knows why.
    std::string said = last_words(words.get());
    if (error.exit() == base::Exit::kInterrupted || said.empty() || error.message().contains("refused"))
      throw;
    throw base::error("cannot copy {} to {}: {}", reference, node, said)
        .hint(std::format("`{} {} drover-node --version` has to work without a question", base::quoted(rsh),
                          node));
  }
}

std::vector<Verdict> verify(base::Context& context, const Store& store,
                            const std::vector<std::string>& references) {
  std::vector<std::string> wanted = references;
  if (wanted.empty())
    for (const Store::Version& version : store.versions()) wanted.push_back(version.reference());
  std::vector<Verdict> verdicts;
  std::map<std::string, Verdict> layers;  // each is read once
  auto verdict_of = [](const std::string& name, auto&& check) {
    try {
      check();
      return Verdict{.reference = name, .problem = {}, .hint = {}};
    } catch (const base::Error& error) {
      if (error.exit() == base::Exit::kInterrupted) throw;
      return Verdict{.reference = name, .problem = error.message(), .hint = error.hint()};
    }
  };
  for (const std::string& reference : wanted) {
    Manifest manifest;
    Verdict verdict = verdict_of(reference, [&] { manifest = store.resolve(reference); });
    for (const Layer& layer : manifest.layers) {
      if (!layers.contains(layer.digest)) {
        base::Phase phase(context.progress, "layer " + layer.digest.substr(7, 12), layer.bytes);
        layers[layer.digest] =
            verdict_of(reference, [&] { store.verify_layer(layer, [&](uint64_t done) { phase.at(done); }); });
      }
      if (verdict.problem.empty()) verdict = layers[layer.digest];
    }
    verdict.reference = manifest.name.empty() ? reference : manifest.reference();
    verdicts.push_back(verdict);
  }
  return verdicts;
}

}  // namespace templates
