#include "base/journal.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <array>
#include <csignal>

#include "base/error.h"
#include "base/mount.h"

namespace base {
namespace {

using nlohmann::json;

class JournalTest : public testing::Test {
 protected:
  void SetUp() override {
    Journal journal = Journal::open(path_);
    for (const json& record : records_) journal.append(record);
    text_ = read_file(path_);
    last_ = text_.rfind('\n', text_.size() - 2) + 1;
  }

  /// The records that opening finds when the file holds `text`.
  std::vector<json> records_in(const std::string& text) {
    write_file(path_, text);
    return Journal::open(path_).records();
  }
  bool opens(const std::string& text) {
    try {
      records_in(text);
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  const std::vector<json> records_ = {
      {{"step", "frozen"}}, {{"step", "given"}, {"epoch", 4}}, {{"box", "web 1\n"}}};
  const std::vector<json> but_last_ = {records_[0], records_[1]};
  TempDir directory_ = TempDir::make("/tmp", "drover-unit-");
  std::string path_ = directory_.path() + "/journal";
  std::string text_;
  size_t last_ = 0;  ///< where the last record begins
};

TEST_F(JournalTest, KeepsRecordsOverOpenings) {
  EXPECT_EQ(records_in(text_), records_);
  {
    Journal journal = Journal::open(path_);
    journal.append("more");
    EXPECT_EQ(journal.records().size(), 4u);
  }
  EXPECT_EQ(Journal::read(path_).back(), "more");
}

TEST_F(JournalTest, IsWrittenAsDocumented) {
  std::string path = directory_.path() + "/example";
  Journal::open(path).append({{"box", "web1"}, {"state", "frozen"}});
  EXPECT_EQ(read_file(path), "ebceb081 {\"box\":\"web1\",\"state\":\"frozen\"}\n");
  EXPECT_TRUE(read_file("docs/formats/journal.md").contains(read_file(path)));
}

TEST_F(JournalTest, EveryPrefixOfTheLastRecordIsCutOff) {
  for (size_t size = last_; size < text_.size(); ++size) {
    ASSERT_EQ(records_in(text_.substr(0, size)), but_last_) << size;
    ASSERT_EQ(read_file(path_), text_.substr(0, last_)) << size;
    Journal::open(path_).append("after");
    ASSERT_EQ(Journal::open(path_).records().size(), 3u) << size;
  }
}

TEST_F(JournalTest, SpaceThatWasNeverWrittenIsCutOff) {
  EXPECT_EQ(records_in(text_ + std::string(4096, '\0')), records_);
  // The record crosses from a block that was never written into one that was.
  std::string holed = text_;
  std::fill(holed.begin() + static_cast<ssize_t>(last_), holed.end() - 4, '\0');
  EXPECT_EQ(records_in(holed), but_last_);
}

TEST_F(JournalTest, EveryFlippedByteIsNoticed) {
  for (size_t at = 0; at < text_.size(); ++at) {
    for (int mask : {0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff}) {
      std::string damaged = text_;
      damaged[at] = static_cast<char>(damaged[at] ^ mask);
      if (damaged[at] == '\0' && at >= last_) continue;  // cannot be told from space that was never written
      ASSERT_FALSE(opens(damaged)) << "byte " << at << " mask " << mask;
      ASSERT_EQ(read_file(path_), damaged) << "a damaged journal was changed";
    }
  }
}

TEST_F(JournalTest, DamageIsToldWithItsPlace) {
  std::string damaged = text_;
  damaged[text_.find('\n') + 1] = 'x';
  try {
    records_in(damaged);
    FAIL() << "damage was not noticed";
  } catch (const Error& e) {
    EXPECT_EQ(e.message(),
              path_ + " is damaged in record 2 (at byte " + std::to_string(text_.find('\n') + 1) + ")");
  }
}

TEST_F(JournalTest, HasOneWriter) {
  Journal journal = Journal::open(path_);
  EXPECT_THROW(Journal::open(path_), Error);
  EXPECT_EQ(Journal::read(path_), records_);
}

TEST_F(JournalTest, ReadingChangesNothing) {
  EXPECT_EQ(Journal::read(directory_.path() + "/none"), std::vector<json>());
  EXPECT_FALSE(exists(directory_.path() + "/none"));
  write_file(path_, text_ + "torn");
  EXPECT_EQ(Journal::read(path_), records_);
  EXPECT_EQ(read_file(path_), text_ + "torn");
}

/// After a failed fsync the page counts as clean; only a new write makes the next fsync mean something.
TEST_F(JournalTest, OpeningWritesTheLastRecordAgain) {
  auto changed = [&] {
    struct stat s{};
    EXPECT_EQ(::stat(path_.c_str(), &s), 0);
    return s.st_mtim.tv_sec;
  };
  const std::array<timespec, 2> old = {timespec{1, 0}, timespec{1, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, path_.c_str(), old.data(), 0), 0);
  EXPECT_EQ(Journal::read(path_), records_);
  EXPECT_EQ(changed(), 1);
  EXPECT_EQ(Journal::open(path_).records(), records_);
  EXPECT_GT(changed(), 1);
  EXPECT_EQ(read_file(path_), text_);
}

TEST_F(JournalTest, AFailedAppendIsTheLastOne) {
  Journal journal = Journal::open(path_);
  rlimit ours;
  ::getrlimit(RLIMIT_FSIZE, &ours);
  ::signal(SIGXFSZ, SIG_IGN);
  rlimit full = {.rlim_cur = text_.size() + 5, .rlim_max = ours.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &full);
  EXPECT_THROW(journal.append("does not fit"), Error);
  ::setrlimit(RLIMIT_FSIZE, &ours);
  EXPECT_THROW(journal.append("x"), Error);
  EXPECT_EQ(read_file(path_).size(), text_.size() + 5);  // a torn record, as a full disk leaves it
  EXPECT_EQ(Journal::open(path_).records(), records_);
}

TEST_F(JournalTest, ARecordThatIsNoUtf8IsAnErrorAndNoDamage) {
  Journal journal = Journal::open(path_);
  EXPECT_THROW(journal.append("\xff"), Error);
  journal.append("fine");
  EXPECT_EQ(Journal::read(path_).size(), 4u);
}

}  // namespace
}  // namespace base
