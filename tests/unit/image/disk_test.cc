#include "image/disk.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "tests/unit/image/disk_samples.h"

namespace image {
namespace {

class Disk : public testing::Test {
 protected:
  base::ProcessRunner runner_;
  std::unique_ptr<base::Progress> progress_ = base::make_progress(base::Talk::kSilent);
  base::Clock clock_;
  base::Context context_ = {.runner = runner_, .progress = *progress_, .clock = clock_};
  SampleParts samples_{context_};
  std::string out_ = samples_.path("disk.img");

  std::string run(const std::vector<std::string>& argv) { return runner_.run({.argv = argv}).out; }

  std::string read(uint64_t start, uint64_t bytes) {
    base::Fd disk = base::open(out_, O_RDONLY);
    std::string content(bytes, '\0');
    EXPECT_EQ(::pread(disk.get(), content.data(), bytes, static_cast<off_t>(start)),
              static_cast<ssize_t>(bytes));
    return content;
  }
  std::string read(std::string_view partition) {
    const Partition found = find_partition(read_gpt(out_), partition);
    return read(found.start, found.bytes);
  }
  /// A partition as a file of its own, for programs that look at file systems.
  std::string extract(std::string_view partition) {
    base::write_file(samples_.path("extracted"), read(partition));
    return samples_.path("extracted");
  }
  std::string esp_drive() {
    return std::format("{}@@{}", out_, find_partition(read_gpt(out_), kNameEsp).start);
  }
  void expect_error(const DiskLayout& layout, const DiskParts& parts, const std::string& word) {
    try {
      compose_disk(context_, layout, parts, out_);
      FAIL() << "composed, without: " << word;
    } catch (const base::Error& error) {
      EXPECT_NE(error.render().find(word), std::string::npos) << error.render();
    }
    EXPECT_FALSE(base::exists(out_));
    auto left = std::filesystem::directory_iterator(samples_.path(""));
    EXPECT_TRUE(std::none_of(begin(left), end(left), [](const auto& entry) {
      return entry.path().filename().string().starts_with(".disk-");
    }));
  }
};

TEST_F(Disk, HasItsPartitionsWhereTheFormatSays) {
  DiskLayout layout = small_layout();
  compose_disk(context_, layout, samples_.parts(), out_);
  PartitionTable table = read_gpt(out_);
  EXPECT_EQ(table, plan_partitions(layout));
  std::vector<std::pair<std::string, uint64_t>> found;
  for (const Partition& partition : table.partitions)
    found.emplace_back(partition.name, partition.start / kMiB);
  EXPECT_EQ(found, (std::vector<std::pair<std::string, uint64_t>>{{"drover-bios", 1},
                                                                  {"drover-esp", 2},
                                                                  {"drover-root-a", 36},
                                                                  {"drover-root-b", 38},
                                                                  {"drover-data", 40}}));
  EXPECT_EQ(std::filesystem::file_size(out_), disk_bytes(layout));
  EXPECT_EQ(disk_bytes(layout), 105 * kMiB);
}

TEST_F(Disk, StartsGrubOnBios) {
  compose_disk(context_, small_layout(), samples_.parts(), out_);
  std::string boot = read(0, 512), image = base::read_file(samples_.path("loader/boot.img"));
  EXPECT_EQ(boot.substr(0, 0x5c), image.substr(0, 0x5c));
  EXPECT_EQ(boot.substr(0x5c, 8), std::string("\0\x08\0\0\0\0\0\0", 8));
  EXPECT_EQ(boot[450], '\xee');
  std::string core = base::read_file(samples_.path("loader/core.img"));
  EXPECT_EQ(read(kMiB, 500), core.substr(0, 500));
  EXPECT_EQ(read(kMiB + 500, 8), std::string("\x01\x08\0\0\0\0\0\0", 8));
  EXPECT_EQ(read(kMiB + 512, core.size() - 512), core.substr(512));
}

TEST_F(Disk, FillsSlotA) {
  compose_disk(context_, small_layout(), samples_.parts(), out_);
  std::string root = base::read_file(samples_.path("root.img"));
  EXPECT_EQ(read(kNameRootA), root + std::string(2 * kMiB - root.size(), '\0'));
  EXPECT_EQ(read(kNameRootB), std::string(2 * kMiB, '\0'));
  SlotState state = parse_slot_state(run({"mtype", "-i", esp_drive(), "::drover/slot-state"}));
  EXPECT_EQ(boot(state).slot, Slot::kA);
  EXPECT_EQ(state.at(Slot::kA), (SlotHealth{.health = Health::kTrial, .tries = 3}));
  EXPECT_EQ(state.at(Slot::kB), SlotHealth{});
}

TEST_F(Disk, FillsBothSlotsWhereTheStateHasBoth) {
  DiskParts parts = samples_.parts();
  parts.state = parts.state.confirm(Slot::kA).activate(Slot::kB, 1);
  compose_disk(context_, small_layout(), parts, out_);
  EXPECT_EQ(read(kNameRootB), read(kNameRootA));
  EXPECT_EQ(run({"mtype", "-i", esp_drive(), "::drover/b/initrd"}), base::read_file(samples_.path("initrd")));
}

TEST_F(Disk, HasTheLoadersFilesOnAFat32) {
  compose_disk(context_, small_layout(), samples_.parts(), out_);
  EXPECT_EQ(read(2 * kMiB + 82, 8), "FAT32   ");
  std::string listed = run({"mdir", "-i", esp_drive(), "-/", "-b", "::"});
  std::string expected;
  for (const EspFile& file : esp_files(samples_.parts())) {
    EXPECT_NE(listed.find("::/" + file.path + "\n"), std::string::npos) << file.path << " in\n" << listed;
    std::string content = file.source.empty() ? file.content : base::read_file(file.source);
    EXPECT_EQ(run({"mtype", "-i", esp_drive(), "::" + file.path}), content) << file.path;
  }
  EXPECT_NE(listed.find("::/drover/b/\n"), std::string::npos) << listed;
  EXPECT_EQ(listed.find("::/drover/b/v"), std::string::npos) << listed;
}

TEST_F(Disk, HasFilesOfRootOnItsData) {
  for (std::string_view kind : {"ext4", "xfs"}) {
    compose_disk(context_, small_layout(std::string(kind)), samples_.parts(), out_);
    std::string data = extract(kNameData);
    if (kind == "ext4") {
      run({"e2fsck", "-f", "-n", data});
      EXPECT_EQ(run({"debugfs", "-R", "cat /ssh/keys/host", data}), noise(5000, 5));
      std::string about = run({"debugfs", "-R", "stat /ssh/keys/host", data});
      for (const char* word : {"Mode:  0400", "User:     0   Group:     0"})
        EXPECT_NE(about.find(word), std::string::npos) << about;
    } else {
      run({"xfs_repair", "-n", data});
      std::string about = run({"xfs_db", "-r", "-c", "path /node.toml", "-c", "p core", data});
      for (const char* word : {"core.mode = 0100600", "core.uid = 0", "core.size = 15"})
        EXPECT_NE(about.find(word), std::string::npos) << about;
    }
  }
}

class Twice : public Disk, public testing::WithParamInterface<const char*> {};

TEST_P(Twice, GivesTheSameBytes) {
  DiskLayout layout = small_layout(GetParam());
  compose_disk(context_, layout, samples_.parts(), out_);
  ::sleep(1);  // the times of files and of the kernel are others now
  SampleParts others(context_);
  std::string again = others.path("again.img");
  mode_t mask = ::umask(077);
  compose_disk(context_, layout, others.parts(), again);
  ::umask(mask);
  EXPECT_EQ(run({"cmp", out_, again}), "");
  layout.seed[0] = 'e';
  compose_disk(context_, layout, others.parts(), again);
  EXPECT_EQ(runner_.run_any({.argv = {"cmp", out_, again}}).status, 1);
}

INSTANTIATE_TEST_SUITE_P(EachFileSystem, Twice, testing::Values("ext4", "xfs"));

TEST_F(Disk, TakesLittleRoom) {
  DiskLayout layout = small_layout();
  layout.data_bytes = 4096 * kMiB;
  compose_disk(context_, layout, samples_.parts(), out_);
  struct stat about = {};
  ASSERT_EQ(::stat(out_.c_str(), &about), 0);
  EXPECT_LT(static_cast<uint64_t>(about.st_blocks) * 512, 16 * kMiB);
}

TEST_F(Disk, IsNotMadeOfWhatDoesNotFit) {
  auto refused = [&](auto change, const std::string& word) {
    DiskLayout layout = small_layout();
    DiskParts parts = samples_.parts();
    change(layout, parts);
    expect_error(layout, parts, word);
  };
  base::write_file(samples_.path("large"), std::string(17 * kMiB, 'l'));
  std::string large = samples_.path("large");
  refused([&](auto&, auto& parts) { parts.root_image = large; }, "make slots larger in the definition");
  refused([&](auto&, auto& parts) { parts.initrd = large; }, "make the ESP larger in the definition");
  refused([&](auto&, auto& parts) { parts.vmlinuz += ".not"; }, "vmlinuz.not: No such file");
  refused([&](auto&, auto& parts) { parts.data_files[0].path = "../node.toml"; },
          "../node.toml cannot be put");
  refused([](auto& layout, auto&) { layout.esp_bytes = 33 * kMiB; }, "34.0 MiB");
  refused([](auto& layout, auto&) { layout.slot_bytes += 512; }, "a multiple of 1 MiB");
  refused([](auto& layout, auto&) { layout.slot_bytes = 0; }, "the slots cannot have 0 bytes");
  refused([](auto& layout, auto&) { layout.slot_bytes = ~uint64_t{0}; }, "the slots cannot have");
  refused([](auto& layout, auto&) { layout.data_file_system = "xfs"; }, "300.0 MiB");
  refused([](auto& layout, auto&) { layout.data_bytes = 63 * kMiB; }, "64.0 MiB");
  refused([](auto& layout, auto&) { layout.data_file_system = "btrfs"; }, "ext4 or xfs");
}

TEST_F(Disk, LeavesNothingWhenItFails) {
  base::write_file(samples_.path("loader/core.img"), "not GRUB");
  expect_error(small_layout(), samples_.parts(), "core.img");
}

}  // namespace
}  // namespace image
