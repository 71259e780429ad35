#include "image/closure.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "image/libraries.h"
#include "tests/unit/image/image_samples.h"
#include "tests/unit/image/tree_samples.h"

namespace image {
namespace {

using Texts = std::vector<std::string>;
constexpr const char* kLoader = "/lib64/ld-linux-x86-64.so.2";

/// A root in which everything has what it needs, laid out as Debian's.
class Closure : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* name : {"bin", "sbin", "lib", "lib64"})
      tree_.link("/" + std::string(name), "usr/" + std::string(name));
    tree_.put("/usr/lib64/ld-linux-x86-64.so.2", ElfSample{.interpreter = {}, .needed = {}});
    tree_.put("/usr/lib/x86_64-linux-gnu/libc.so.6.real", ElfSample{.needed = {"ld-linux-x86-64.so.2"}});
    tree_.link("/usr/lib/x86_64-linux-gnu/libc.so.6", "libc.so.6.real");
    tree_.put("/usr/bin/sh", ElfSample{.interpreter = kLoader, .needed = {"libc.so.6"}});
    tree_.put("/usr/bin/env", ElfSample{.interpreter = kLoader, .needed = {"libc.so.6"}});
    tree_.put("/usr/sbin/good", "#! /bin/sh -e\n", 0755);
    tree_.put(
        "/usr/lib/systemd/system/good.service",
        "[Service]\n#ExecStart=/usr/bin/commented\nExecStart=@/bin/sh sh -c 'x'\nExecStop=good\nUser=x\n");
  }

  Texts gaps() {
    Texts found;
    for (const Gap& gap : find_gaps(tree_.path())) found.push_back(gap.file + ": " + gap.needs);
    std::ranges::sort(found);
    return found;
  }

  SampleTree tree_;
};

TEST_F(Closure, AWholeRootHasNoGaps) { EXPECT_EQ(gaps(), Texts{}); }

TEST_F(Closure, LibrariesAndLoadersAreMissed) {
  tree_.put("/usr/bin/a", ElfSample{.interpreter = kLoader, .needed = {"libc.so.6", "libgone.so.1"}});
  tree_.put("/usr/bin/musl", ElfSample{.interpreter = "/lib/ld-musl-x86_64.so.1", .needed = {"libc.so.6"}});
  // Not only programs: also what has no x bit.
  tree_.put("/usr/lib/x86_64-linux-gnu/libb.so.1", ElfSample{.needed = {"libalso-gone.so"}}.bytes(), 0644);
  EXPECT_EQ(gaps(),
            (Texts{"/usr/bin/a: library libgone.so.1", "/usr/bin/musl: interpreter /lib/ld-musl-x86_64.so.1",
                   "/usr/lib/x86_64-linux-gnu/libb.so.1: library libalso-gone.so"}));
}

TEST_F(Closure, ALibraryIsFoundWhereTheProgramSays) {
  tree_.put("/opt/x/lib/libown.so", ElfSample{.needed = {"libc.so.6"}});
  tree_.put(
      "/opt/x/bin/a",
      ElfSample{.interpreter = kLoader, .needed = {"libown.so"}, .run_path = "/nowhere:$ORIGIN/../lib"});
  tree_.put("/opt/x/bin/b",
            ElfSample{.interpreter = kLoader, .needed = {"libown.so"}, .run_path = "${ORIGIN}/../lib"});
  tree_.put("/opt/x/bin/c", ElfSample{.interpreter = kLoader, .needed = {"/opt/x/lib/libown.so"}});
  tree_.put("/opt/x/bin/d", ElfSample{.interpreter = kLoader, .needed = {"libown.so"}});
  EXPECT_EQ(gaps(), Texts{"/opt/x/bin/d: library libown.so"});
}

TEST_F(Closure, ScriptsMissTheirInterpreter) {
  tree_.put("/usr/bin/a", "#!/usr/bin/python3 -I\n", 0755);
  tree_.put("/usr/bin/b", "#!/usr/bin/env perl\n", 0755);
  tree_.put("/usr/bin/c", "#!/usr/bin/env sh\n", 0755);
  tree_.put("/usr/bin/d", "#!/usr/bin/tclsh", 0755);
  EXPECT_EQ(gaps(), (Texts{"/usr/bin/a: interpreter /usr/bin/python3", "/usr/bin/b: interpreter perl",
                           "/usr/bin/d: interpreter /usr/bin/tclsh"}));
}

TEST_F(Closure, UnitsMissTheirPrograms) {
  tree_.put("/usr/lib/systemd/system/a.service",
            "[Service]\nExecStart=\nExecStart=!!/usr/sbin/gone --x\nExecReload=good\n");
  tree_.put("/etc/systemd/system/b.service", "ExecStartPre = @/usr/bin/away away\n");
  tree_.put("/usr/lib/systemd/user/c.service", "ExecStart=no-path\n");
  tree_.put("/usr/lib/systemd/system/good.service.d/more.conf",
            "[Service]\nExecStartPost=/usr/bin/dropped\n");
  EXPECT_EQ(gaps(), (Texts{"/etc/systemd/system/b.service: program /usr/bin/away",
                           "/usr/lib/systemd/system/a.service: program /usr/sbin/gone",
                           "/usr/lib/systemd/system/good.service.d/more.conf: program /usr/bin/dropped",
                           "/usr/lib/systemd/user/c.service: program no-path"}));
}

TEST_F(Closure, LinksOfProgramsThatLeadNowhereAreMissed) {
  tree_.link("/usr/bin/awk", "/etc/alternatives/awk");
  tree_.link("/usr/bin/fine", "/usr/bin/sh");
  tree_.link("/usr/lib/x86_64-linux-gnu/libx.so", "libx.so.1");
  EXPECT_EQ(gaps(), (Texts{"/usr/bin/awk: link to /etc/alternatives/awk",
                           "/usr/lib/x86_64-linux-gnu/libx.so: link to libx.so.1"}));
}

/// Where "/" is the root's own, nothing of this machine fills a gap.
TEST_F(Closure, ThisMachineHasNothingForIt) {
  ASSERT_TRUE(base::exists("/usr/bin/tar"));
  tree_.link("/usr/bin/a", "/usr/bin/tar");
  tree_.link("/usr/bin/b", "../../../../../../../../usr/bin/tar");
  tree_.put("/usr/sbin/c", "#!/usr/bin/tar\n", 0755);
  EXPECT_EQ(gaps(), (Texts{"/usr/bin/a: link to /usr/bin/tar",
                           "/usr/bin/b: link to ../../../../../../../../usr/bin/tar",
                           "/usr/sbin/c: interpreter /usr/bin/tar"}));
}

TEST_F(Closure, WhatNeedsNothingIsNotReported) {
  tree_.put("/usr/share/doc/x/example.py", "#!/usr/bin/python3\n");
  tree_.put("/usr/bin/split", "#!/usr/bin/env -S gone --x\n", 0755);
  tree_.put("/usr/bin/data", std::string("\0#!/usr/bin/gone", 16), 0755);
  std::string module = ElfSample{.needed = {"libgone.so"}}.bytes();
  module[16] = ET_REL;  // e_type
  tree_.put("/usr/lib/modules/6.12/kernel/x.ko", module);
  std::string foreign =
      ElfSample{.interpreter = "/lib/ld-linux-aarch64.so.1", .needed = {"libgone.so"}}.bytes();
  foreign[18] = static_cast<char>(EM_AARCH64);  // e_machine
  tree_.put("/usr/lib/firmware/x.elf", foreign);
  tree_.link("/etc/mtab", "/proc/mounts");
  tree_.link("/etc/systemd/system/masked.service", "/dev/null");
  tree_.link("/etc/systemd/system/multi-user.target.wants/gone.service",
             "/usr/lib/systemd/system/gone.service");
  tree_.put(
      "/usr/lib/systemd/system/may.service",
      "ExecStart=-/usr/bin/gone\nExecStartPre=@-/usr/bin/gone x\nExecStop=/bin/kill-%i\nExecStop=$PROGRAM\n"
      "ExecSearchPath=/opt/gone\n");
  EXPECT_EQ(gaps(), Texts{});
}

TEST_F(Closure, ADamagedFileIsNamed) {
  tree_.put("/usr/bin/half",
            ElfSample{.interpreter = kLoader, .needed = {"libc.so.6"}}.bytes().substr(0, 200), 0755);
  EXPECT_EQ(thrown([&] { gaps(); }), "error: " + tree_.path() + "/usr/bin/half is a damaged ELF file\n");
}

TEST_F(Closure, TheRunPathComesBeforeTheSystem) {
  tree_.put("/usr/lib/x86_64-linux-gnu/libx.so", "");
  tree_.put("/opt/libx.so", "");
  EXPECT_EQ(find_library(tree_.path(), "libx.so", {}, "/usr/bin"), "/usr/lib/x86_64-linux-gnu/libx.so");
  EXPECT_EQ(find_library(tree_.path(), "libx.so", {"/opt"}, "/usr/bin"), "/opt/libx.so");
  EXPECT_EQ(find_library(tree_.path(), "libx.so", {"$ORIGIN"}, "/opt"), "/opt/libx.so");
  EXPECT_EQ(find_library(tree_.path(), "/opt/libx.so", {}, "/"), "/opt/libx.so");
  EXPECT_EQ(find_library(tree_.path(), "/opt/liby.so", {}, "/"), "");
  EXPECT_EQ(find_library(tree_.path(), "liby.so", {"/opt"}, "/opt"), "");
  EXPECT_EQ(find_library(tree_.path(), "../../../../usr/bin/tar", {}, "/"), "");
}

}  // namespace
}  // namespace image
