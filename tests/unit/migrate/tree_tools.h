#pragma once
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fd.h"
#include "base/mount.h"
#include "migrate/tree.h"

namespace migrate {

/// A stream in memory: what a Sender wrote, for a Receiver to read.
class MemoryStream : public Sink, public Source {
 public:
  MemoryStream() = default;
  explicit MemoryStream(std::string stored) : bytes(std::move(stored)) {}
  void write(std::span<const std::byte> piece) override {
    bytes.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  }
  void read_exact(std::span<std::byte> out) override {
    if (out.size() > bytes.size() - at) throw base::error("the stream ends here");
    std::memcpy(out.data(), bytes.data() + at, out.size());
    at += out.size();
  }
  std::string bytes;
  size_t at = 0;
};

/// Every name below a directory with all that a copy must keep, as text: one line of the map is one name.
/// `but` and what is below is left out.
/// Written without any code of migrate/, to be able to disagree with it.
std::map<std::string, std::string> dump_tree(const std::string& root, const std::string& but = "-");

/// The lines that differ, for a message; empty: the trees are the same.
std::string difference(const std::map<std::string, std::string>& want,
                       const std::map<std::string, std::string>& got);

/// Two trees on a real file system and the rounds between them.
class TreeTest : public testing::Test {
 protected:
  TreeTest() {
    base::make_directories(from());
    base::make_directories(to());
  }
  void SetUp() override {
    if (::geteuid() != 0) GTEST_SKIP() << "needs root: owners, trusted attributes and whiteouts are root's";
  }
  [[nodiscard]] std::string from(const std::string& name = {}) const {
    return directory_.path() + "/from/" + name;
  }
  [[nodiscard]] std::string to(const std::string& name = {}) const {
    return directory_.path() + "/to/" + name;
  }

  TreeStats round(const SendOptions& options = {}) {
    MemoryStream stream;
    base::Fd source = base::open(from(), O_RDONLY | O_DIRECTORY);
    TreeStats sent = send_tree(source.get(), stream, last_, options);
    base::Fd destination = base::open(to(), O_RDONLY | O_DIRECTORY);
    TreeStats received = receive_tree(destination.get(), stream);
    EXPECT_EQ(stream.at, stream.bytes.size());
    EXPECT_EQ(sent.entries, received.entries);
    EXPECT_EQ(sent.bytes, received.bytes);
    EXPECT_EQ(sent.removed, received.removed);
    stream_ = std::move(stream.bytes);
    return sent;
  }
  TreeStats final_round() { return round({.final = true}); }

  [[nodiscard]] std::string trees_differ() const { return difference(dump_tree(from()), dump_tree(to())); }

  void write(const std::string& name, std::string_view text) const {
    base::Fd file = base::open(from(name), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    base::write_full(file.get(), text, name);
  }

  base::TempDir directory_ = base::TempDir::make("/var/tmp", "drover-unit-");
  TreeSnapshot last_;
  std::string stream_;  ///< of the last round
};

/// What the Error that `body` throws says.
template <class Body>
std::string error_of(Body body) {
  try {
    body();
  } catch (const base::Error& e) {
    return e.what();
  }
  return "no error";
}

}  // namespace migrate
