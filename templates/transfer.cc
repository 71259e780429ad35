// How a template version goes from one store to another (docs/formats/template-stream.md):
//
//     sender                            receiver
//     OFFER manifest, signature  ---->  checks the signature, looks which layers it has
//                                <----  WANT indices
//     LAYER index, bytes ...     ---->  hashes while it writes; keeps what is whole
//                                <----  DONE: the version exists
//
// Either end may say REFUSE and a sentence instead, at any time.
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/hash.h"
#include "base/mount.h"
#include "base/text.h"
#include "templates/store.h"

namespace templates {
namespace {

enum class Type : uint8_t { kOffer = 1, kLayer = 2, kWant = 16, kDone = 17, kRefuse = 255 };

constexpr std::string_view kMagic = "drovtpl1";
constexpr size_t kMostManifest = 8 << 20, kMostSignature = 64 << 10;
constexpr size_t kMostMessage = kMagic.size() + 4 + kMostManifest + kMostSignature;
constexpr size_t kMostRefusal = 4096;
constexpr int kSilenceMs = 60'000;
/// So much can be written without blocking to a pipe that poll calls writable (pipe(7)).
constexpr size_t kPiece = 4096;

void put(std::string& to, uint64_t number, size_t width) {
  for (size_t i = 0; i < width; ++i) to += static_cast<char>(number >> (8 * i));
}

/// Takes numbers and texts off a message, and notices when it is too short.
class Cutter {
 public:
  /// `data` has to outlive it.
  explicit Cutter(std::string_view data) : data_(data) {}
  explicit Cutter(std::string&&) = delete;

  std::string_view text(size_t size) {
    if (size > data_.size()) throw base::error("the other end sent a message that is too short");
    std::string_view text = data_.substr(0, size);
    data_.remove_prefix(size);
    return text;
  }
  uint64_t number(size_t width) {
    uint64_t number = 0;
    std::string_view digits = text(width);
    for (size_t i = width; i-- > 0;) number = number << 8 | static_cast<unsigned char>(digits[i]);
    return number;
  }
  [[nodiscard]] size_t left() const { return data_.size(); }

 private:
  std::string_view data_;
};

/// A sentence from the other end, without what could steer a terminal.
std::string plain(std::string_view text) {
  return base::printable(std::string(text.substr(0, kMostRefusal)));
}

/// One end of a stream. Every wait has a deadline and can be interrupted.
class Channel {
 public:
  Channel(int in, int out) : in_(in), out_(out) {}

  void read(std::span<std::byte> into) {
    while (!into.empty()) {
      await(in_, POLLIN);
      ssize_t got = ::read(in_, into.data(), into.size());
      if (got < 0 && errno != EINTR && errno != EAGAIN)
        throw base::sys_error("cannot read from the other end");
      if (got == 0) throw base::error("the other end went away");
      if (got > 0) into = into.subspan(static_cast<size_t>(got));
    }
  }

  /// `heed`: a refusal that comes meanwhile is thrown.
  void write(std::span<const std::byte> data, bool heed = false) {
    while (!data.empty()) {
      if (await(out_, POLLOUT, heed ? in_ : -1)) expect(Type::kRefuse, kMostRefusal);
      ssize_t put = ::write(out_, data.data(), std::min(data.size(), kPiece));
      if (put < 0 && errno == EPIPE) throw base::error("the other end went away");
      if (put < 0 && errno != EINTR && errno != EAGAIN)
        throw base::sys_error("cannot write to the other end");
      if (put > 0) data = data.subspan(static_cast<size_t>(put));
    }
  }

  void send(Type type, std::string_view payload) {
    std::string head(1, static_cast<char>(type));
    put(head, payload.size(), 4);
    write(std::as_bytes(std::span(head)));
    write(std::as_bytes(std::span(payload)));
  }

  /// The next message's payload. A refusal is thrown in its words.
  std::string expect(Type expected, size_t most) {
    std::array<char, 5> head;
    read(std::as_writable_bytes(std::span(head)));
    auto type = static_cast<Type>(head[0]);
    size_t size = Cutter(std::string_view(head.data() + 1, 4)).number(4);
    bool refused = type == Type::kRefuse;
    if ((type != expected && !refused) || size > (refused ? kMostRefusal : most))
      throw base::error("the other end does not speak drover's template stream");
    std::string payload(size, '\0');
    read(std::as_writable_bytes(std::span(payload)));
    if (refused) throw base::error("the other end refused: {}", plain(payload));
    return payload;
  }

 private:
  /// Waits until `fd` is ready; returns whether there is something to read from `heed` instead.
  static bool await(int fd, short events, int heed = -1) {
    std::array<pollfd, 3> fds = {pollfd{.fd = fd, .events = events, .revents = 0},
                                 pollfd{.fd = heed, .events = POLLIN, .revents = 0},
                                 pollfd{.fd = base::interrupt_fd(), .events = POLLIN, .revents = 0}};
    int ready = -1;
    while (ready < 0) {
      ready = ::poll(fds.data(), fds.size(), kSilenceMs);
      if (ready < 0 && errno != EINTR) throw base::sys_error("cannot wait for the other end");
      base::check_interrupt();
    }
    if (ready == 0) throw base::error("the other end has been silent for {} s", kSilenceMs / 1000);
    return (fds[1].revents & POLLIN) != 0;
  }

  int in_, out_;
};

std::string offer(const Store::Signed& version) {
  std::string payload(kMagic);
  put(payload, version.json.size(), 4);
  return payload + version.json + version.signature;
}

std::vector<size_t> wanted_indices(Channel& channel, size_t layers) {
  std::string payload = channel.expect(Type::kWant, 2 * layers);
  Cutter cutter(payload);
  std::vector<size_t> wanted;
  while (cutter.left() > 0) {
    wanted.push_back(cutter.number(2));
    if (wanted.back() >= layers || (wanted.size() > 1 && wanted.back() <= wanted[wanted.size() - 2]))
      throw base::error("the other end wants layers that were not offered");
  }
  return wanted;
}

void send_layer(Channel& channel, const Store& store, const Layer& layer, size_t index,
                const std::function<void(uint64_t)>& at) {
  if (!store.has_layer(layer)) store.verify_layer(layer);  // says what is wrong with it
  std::string head;
  put(head, index, 2);
  put(head, layer.bytes, 8);
  channel.send(Type::kLayer, head);
  base::Fd file = base::open(store.layer_path(layer.digest), O_RDONLY);
  std::vector<std::byte> piece(256 << 10);
  for (uint64_t done = 0; done < layer.bytes;) {
    size_t size = std::min<uint64_t>(piece.size(), layer.bytes - done);
    if (base::read_full(file.get(), std::span(piece).first(size)) != size)
      throw base::error("layer {} became shorter while it was sent", layer.digest);
    channel.write(std::span(piece).first(size), /*heed=*/true);
    at(done += size);
  }
}

/// Writes a layer beside the store, then hands it over whole.
void receive_layer(Channel& channel, Store& store, const Layer& layer, size_t index, const Store::Hold& hold,
                   const std::function<void(uint64_t)>& at) {
  std::string payload = channel.expect(Type::kLayer, 10);
  Cutter head(payload);
  if (head.number(2) != index || head.number(8) != layer.bytes)
    throw base::error("the other end sent another layer than {}", layer.digest);
  base::TempDir directory = base::TempDir::make(store.scratch_dir(), "layer-");
  std::string path = directory.path() + "/layer.erofs";
  base::Fd file = base::open(path, O_WRONLY | O_CREAT | O_EXCL);
  if (int err = ::posix_fallocate(file.get(), 0, static_cast<off_t>(layer.bytes)); err != 0)
    throw base::Error("no room for a layer of " + base::human_size(layer.bytes), err)
        .hint("`drover-node template gc` frees what no template needs");
  base::Sha256 hash;
  std::vector<std::byte> piece(256 << 10);
  for (uint64_t done = 0; done < layer.bytes;) {
    std::span<std::byte> part = std::span(piece).first(std::min<uint64_t>(piece.size(), layer.bytes - done));
    channel.read(part);
    hash.add(part);
    base::write_full(file.get(), part, path);
    at(done += part.size());
  }
  if (std::string found = "sha256:" + hash.hex(); found != layer.digest)
    throw base::error("layer {} arrived damaged: its bytes are those of {}", layer.digest, found)
        .hint("check it where it comes from with `drover template verify`");
  store.adopt_layer(path, layer, hold);
}

Store::Signed parse_offer(Store& store, const std::string& payload) {
  Cutter cutter(payload);
  if (cutter.text(std::min(kMagic.size(), cutter.left())) != kMagic)
    throw base::error("the other end does not speak drover's template stream");
  std::string json(cutter.text(cutter.number(4)));
  std::string signature(cutter.text(cutter.left()));
  store.keys().verify(json, signature, "the template that arrives");
  return {.manifest = Manifest::parse(json), .json = std::move(json), .signature = std::move(signature)};
}

Manifest receive_all(base::Context& context, Store& store, Channel& channel) {
  Store::Signed offered = parse_offer(store, channel.expect(Type::kOffer, kMostMessage));
  const Manifest& manifest = offered.manifest;
  Store::Hold hold = store.hold();
  std::string want;
  uint64_t total = 0;
  std::vector<size_t> missing;
  for (size_t i = 0; i < manifest.layers.size(); ++i) {
    if (store.has_layer(manifest.layers[i])) continue;
    missing.push_back(i);
    put(want, i, 2);
    total += manifest.layers[i].bytes;
  }
  channel.send(Type::kWant, want);
  base::make_directories(store.scratch_dir());
  base::Phase phase(context.progress, "receiving " + manifest.reference(), total);
  uint64_t before = 0;
  for (size_t i : missing) {
    receive_layer(channel, store, manifest.layers[i], i, hold,
                  [&](uint64_t done) { phase.at(before + done); });
    before += manifest.layers[i].bytes;
  }
  store.add_version(manifest, offered.json, offered.signature, hold);
  channel.send(Type::kDone, "");
  return manifest;
}

}  // namespace

uint64_t send_missing(base::Context& context, const Store& store, std::string_view reference, int in,
                      int out) {
  Store::Hold hold = store.hold();
  Manifest manifest = store.resolve(reference);
  Store::Signed version = store.load({.name = manifest.name, .version = manifest.version});
  Channel channel(in, out);
  channel.send(Type::kOffer, offer(version));
  std::vector<size_t> wanted = wanted_indices(channel, manifest.layers.size());
  uint64_t total = 0, before = 0;
  for (size_t i : wanted) total += manifest.layers[i].bytes;
  base::Phase phase(context.progress, "sending " + manifest.reference(), total);
  for (size_t i : wanted) {
    send_layer(channel, store, manifest.layers[i], i, [&](uint64_t done) { phase.at(before + done); });
    before += manifest.layers[i].bytes;
  }
  channel.expect(Type::kDone, 0);
  return total;
}

Manifest receive(base::Context& context, Store& store, int in, int out) {
  Channel channel(in, out);
  try {
    return receive_all(context, store, channel);
  } catch (const base::Error& error) {
    std::string why = error.message() + (error.hint().empty() ? "" : " (" + error.hint() + ")");
    try {
      channel.send(Type::kRefuse, why.substr(0, kMostRefusal));
    } catch (const base::Error&) {
      // The other end is gone: there is nobody to tell.
    }
    throw;
  }
}

}  // namespace templates
