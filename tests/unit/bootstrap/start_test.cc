#include "bootstrap/start.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <filesystem>

#include "base/fd.h"
#include "base/mount.h"
#include "bootstrap/copy_tree.h"
#include "bootstrap/data.h"
#include "bootstrap/modules.h"
#include "bootstrap/ports.h"
#include "bootstrap/release.h"
#include "tests/unit/base/namespace.h"
#include "tests/unit/base/samples.h"
#include "tests/unit/bootstrap/machine.h"

namespace bootstrap {
namespace {

namespace fs = std::filesystem;

struct stat status_of(const std::string& path) {
  struct stat about = {};
  EXPECT_EQ(::lstat(path.c_str(), &about), 0) << path;
  return about;
}

/// A root as the image has it, whose /etc and /var are to be written to.
class Start : public testing::Test {
 protected:
  Start() {
    for (const char* part : {"/etc/ssh", "/var/lib/chrony", "/usr"}) base::make_directories(root_ + part);
    base::write_file(root_ + "/etc/hosts", "the image's\n");
    base::write_file(root_ + "/etc/shadow", "secret\n");
    ::chmod((root_ + "/etc/shadow").c_str(), 0640);
    ::chmod((root_ + "/var/lib/chrony").c_str(), 0750);
    fs::create_symlink("../usr/share/zoneinfo/UTC", root_ + "/etc/localtime");
    ::mkfifo((root_ + "/var/pipe").c_str(), 0600);
  }
  base::TempDir dir_ = base::TempDir::make("/tmp", "drover-root-");
  std::string root_ = dir_.path();
};

TEST_F(Start, ATreeIsCopiedWithAllItsAttributes) {
  const std::string to = root_ + "/copy";
  base::make_directories(to);
  const struct timespec times[] = {{.tv_sec = 1, .tv_nsec = 0}, {.tv_sec = 1'000'000, .tv_nsec = 5}};
  ::utimensat(AT_FDCWD, (root_ + "/etc/shadow").c_str(), times, 0);
  copy_tree(root_ + "/etc", to);
  EXPECT_EQ(base::read_file(to + "/shadow"), "secret\n");
  EXPECT_EQ(status_of(to + "/shadow").st_mode & 07777, 0640u);
  EXPECT_EQ(status_of(to + "/shadow").st_mtim.tv_sec, 1'000'000);
  EXPECT_EQ(status_of(to + "/shadow").st_mtim.tv_nsec, 5);
  EXPECT_EQ(fs::read_symlink(to + "/localtime"), "../usr/share/zoneinfo/UTC");
  EXPECT_TRUE(fs::is_directory(to + "/ssh"));
  EXPECT_THROW(copy_tree(root_ + "/etc", to), base::Error);  // nothing is written over
}

TEST_F(Start, EtcAndVarAreMadeOverAReadOnlyRoot) {
  EXPECT_EXIT(
      {
        base::enter_mount_namespace();
        base::Mount::bind(root_, root_).release();
        base::Mount::make("", root_, "", MS_REMOUNT | MS_BIND | MS_RDONLY).release();
        make_writable(root_ + "/etc", "mode=0755");
        make_writable(root_ + "/var", "mode=0755");
        write_node_files({{"/etc/hosts", {.content = "the node's\n"}},
                          {"/etc/drover/a/b", {.mode = 0600, .content = "x"}},
                          {"/etc/localtime", {.mode = 0777, .content = "/elsewhere", .link = true}}},
                         root_);
        mark_as_updated(root_);
        bool right =
            base::read_file(root_ + "/etc/hosts") == "the node's\n" &&
            (status_of(root_ + "/etc/shadow").st_mode & 07777) == 0640 &&
            (status_of(root_ + "/etc/drover/a/b").st_mode & 07777) == 0600 &&
            (status_of(root_ + "/var/lib/chrony").st_mode & 07777) == 0750 &&
            fs::read_symlink(root_ + "/etc/localtime") == "/elsewhere" &&
            status_of(root_ + "/etc/.updated").st_mtim.tv_sec == status_of(root_ + "/usr").st_mtim.tv_sec &&
            base::exists(root_ + "/var/.updated") && !base::exists(root_ + "/var/pipe");
        try {
          base::write_file(root_ + "/usr/x", "");
          right = false;
        } catch (const base::Error& error) {
          right = right && error.err() == EROFS;
        }
        std::_Exit(right ? 0 : 1);
      },
      testing::ExitedWithCode(0), "");
  EXPECT_EQ(base::read_file(root_ + "/etc/hosts"), "the image's\n");
}

TEST_F(Start, ABrokenNodeTomlIsAsIfThereWereNone) {
  EXPECT_EQ(read_node_config(root_).name, "");
  base::write_file(root_ + "/node.toml", "name = \"node7\"\n");
  EXPECT_EQ(read_node_config(root_).name, "node7");
  base::write_file(root_ + "/node.toml", "name = \"node7\"\nnonsense\n");
  EXPECT_EQ(read_node_config(root_).name, "");
}

TEST_F(Start, TheMachineIdStays) {
  const std::string id = machine_id(root_);
  EXPECT_EQ(id.size(), 32u);
  EXPECT_EQ(machine_id(root_), id);
  ::chmod((root_ + "/machine-id").c_str(), 0644);
  base::write_file(root_ + "/machine-id", "uninitialized\n");
  EXPECT_NE(machine_id(root_), "uninitialized");
  EXPECT_EQ(machine_id(root_), machine_id(root_));
}

TEST_F(Start, TheHostKeyIsMadeOnceAndWhole) {
  base::ProcessRunner runner;
  const std::string key = root_ + "/ssh/ssh_host_ed25519_key";
  // What a power cut may have left.
  base::make_directories(root_ + "/ssh");
  base::write_file(root_ + "/ssh/.new", "half");
  base::write_file(key + ".pub", "of a key that is not there");
  ensure_host_key(runner, root_);
  const std::string made = base::read_file(key);
  EXPECT_TRUE(made.starts_with("-----BEGIN OPENSSH PRIVATE KEY-----"));
  EXPECT_EQ(status_of(key).st_mode & 07777, 0600u);
  std::string half = runner.run({.argv = {"ssh-keygen", "-y", "-f", key}}).out;
  half.pop_back();
  EXPECT_TRUE(base::read_file(key + ".pub").starts_with(half));
  EXPECT_FALSE(base::exists(root_ + "/ssh/.new"));
  ensure_host_key(runner, root_);
  EXPECT_EQ(base::read_file(key), made);
}

TEST_F(Start, FileSystemsAreKnownByTheirFirstBytes) {
  base::ProcessRunner runner;
  const std::string device = root_ + "/device";
  base::write_file(device, std::string(1 << 20, '\0'));
  EXPECT_FALSE(file_system_of(device));
  runner.run({.argv = {"mke2fs", "-q", "-F", "-t", "ext4", device}});
  EXPECT_EQ(file_system_of(device), "ext4");
  base::write_file(device, "XFSB" + std::string(4096, '\0'));
  EXPECT_EQ(file_system_of(device), "xfs");
  base::write_file(device, "XFSB");
  EXPECT_FALSE(file_system_of(device));
}

TEST_F(Start, AnExt4ThatNeedsAPersonIsNotMounted) {
  base::FakeRunner runner([](const base::Command& command) {
    EXPECT_EQ(command.argv[0], "e2fsck");
    EXPECT_EQ(command.argv[1], "-p");
    return base::Result{.status = 4, .out = {}, .err = {}};
  });
  const std::string device = root_ + "/device";
  base::write_file(device, std::string(1 << 20, '\0'));
  EXPECT_TRUE(base::thrown([&] {
                mount_data(runner, device, root_ + "/data");
              }).contains("neither an ext4 nor an xfs"));
  base::ProcessRunner().run({.argv = {"mke2fs", "-q", "-F", "-t", "ext4", device}});
  EXPECT_TRUE(base::thrown([&] {
                mount_data(runner, device, root_ + "/data");
              }).contains("e2fsck -p cannot correct"));
}

TEST(Modules, AreLoadedInTheListsOrder) {
  EXPECT_EQ(module_paths("/lib/a.ko\n\nkernel/b.ko.xz\n/c.ko", "/lib/modules/6.12"),
            (std::vector<std::string>{"/lib/a.ko", "/lib/modules/6.12/kernel/b.ko.xz", "/c.ko"}));
  EXPECT_TRUE(module_paths("", "/x").empty());
}

TEST_F(Start, AModuleThatIsNoneIsNamed) {
  base::write_file(root_ + "/x.ko", "this is no module");
  EXPECT_TRUE(base::thrown([&] {
                load_module(root_ + "/x.ko");
              }).starts_with("error: cannot load the module " + root_ + "/x.ko: "));
  EXPECT_TRUE(base::thrown([&] { load_module(root_ + "/none.ko"); }).contains("none.ko: No such file"));
}

TEST(Ports, AreTheMachinesOwnInTheOrderOfTheirNumbers) {
  Machine machine;
  machine.add_port("eth0", "52:54:00:77:01:0b");
  machine.add_port("eth1", "52:54:00:77:01:0a");
  machine.add_port("br0", "52:54:00:77:01:01", "1", false);
  machine.add_port("ib0", "80:00:00:00", "32");
  machine.add_port("wlan0", "52:54:00:77:01:02");
  machine.write("class/net/wlan0/phy80211/name", "phy0\n");
  EXPECT_EQ(ethernet_macs(machine.sys()),
            (std::vector<std::string>{"52:54:00:77:01:0a", "52:54:00:77:01:0b"}));
}

TEST(Ports, DriversAreLoadedForCardsThatHaveNone) {
  Machine machine;
  machine.add_card("pci", "0000:00:01.0", "pci:v00008086d00001521", "0x020000", false);
  machine.add_card("pci", "0000:00:02.0", "pci:v00008086d00001522", "0x020000", true);
  machine.add_card("pci", "0000:00:03.0", "pci:v00001000d00000014", "0x010400", false);
  machine.add_card("virtio", "virtio0", "virtio:d00000001v00001AF4", "", false);
  machine.add_card("virtio", "virtio1", "virtio:d00000002v00001AF4", "", false);
  EXPECT_EQ(driverless_network_cards(machine.sys()),
            (std::vector<std::string>{"pci:v00008086d00001521", "virtio:d00000001v00001AF4"}));
  int calls = 0;
  base::FakeRunner runner([&](const base::Command& command) {
    ++calls;
    EXPECT_EQ(command.argv[0], "modprobe");
    EXPECT_EQ(command.argv.back(), "virtio:d00000001v00001AF4");
    return base::Result{.status = 1, .out = {}, .err = {}};  // a card without a driver
  });
  load_network_drivers(runner, machine.sys());
  EXPECT_EQ(calls, 2);
}

TEST_F(Start, TheReleaseIsTheImagesOrTheSystems) {
  base::write_file(root_ + "/etc/os-release",
                   "NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 13\"\nIMAGE_VERSION=7\n");
  EXPECT_EQ(read_release(root_ + "/etc").name, "Debian GNU/Linux 13");
  EXPECT_EQ(read_release(root_ + "/etc").version, "7");
  base::make_directories(root_ + "/etc/drover");
  base::write_file(root_ + "/etc/drover/image.json",
                   R"({"name": "node-vm", "version": "2026112801", "other": 1})");
  EXPECT_EQ(read_release(root_ + "/etc").name, "node-vm");
  EXPECT_EQ(read_release(root_ + "/etc").version, "2026112801");
}

}  // namespace
}  // namespace bootstrap
