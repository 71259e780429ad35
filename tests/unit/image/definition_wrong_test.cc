#include <gtest/gtest.h>

#include "image/definition.h"
#include "tests/unit/base/samples.h"

namespace image {
namespace {

constexpr const char* kLeast = R"(name = "node"
suite = "trixie"
packages = ["systemd-sysv"]
hardware = ["virtio"]
)";

/// Text that is put behind kLeast (or stands alone when it begins with "!"), and how the error begins.
struct Wrong {
  const char* text;
  const char* says;
};

class WrongImageDefinition : public testing::TestWithParam<Wrong> {};

TEST_P(WrongImageDefinition, IsExplained) {
  std::string text = GetParam().text;
  text = text.starts_with("!") ? text.substr(1) : kLeast + text;
  std::string error = base::thrown([&] { parse_definition(text, "x.toml", "/nonexistent"); });
  EXPECT_TRUE(error.starts_with(std::string("error: x.toml:") + GetParam().says)) << text << "\n" << error;
}

INSTANTIATE_TEST_SUITE_P(
    Top, WrongImageDefinition,
    testing::Values(
        Wrong{"!", "1: name is missing: expected the image's name"},
        Wrong{"!name = \"Node\"",
              "1: name: expected lower-case letters, digits and . + - (at most 63), found \"Node\""},
        Wrong{"!name = \"../x\"", "1: name: expected lower-case letters"},
        Wrong{"!name = \"x\"", "1: suite is missing: expected a Debian suite such as \"trixie\""},
        Wrong{"!name = \"x\"\nsuite = \"Trixie\"", "2: suite: expected a Debian suite"},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"",
              "1: hardware is missing: expected families of drivers such as"},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"\nhardware = []", "1: hardware is missing"},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"\nhardware = \"all\"",
              "3: hardware: expected a list of strings, found a string"},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"\nhardware = [\"nvme\",\n\"mpt2sas\"]",
              "4: hardware: expected families of drivers, or \"all\", found \"mpt2sas\"\n"
              "hint: did you mean mpt3sas?"},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"\nhardware = [\"token-ring\"]",
              "3: hardware: expected families of drivers, or \"all\", found \"token-ring\"\n"
              "hint: families are: all, nvme, ahci, "},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"\nhardware = [\"nvme\", \"all\"]",
              "3: hardware: expected \"all\" alone: it has every family in it"},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"\npackages = [\"crun\",\n\"Crun\"]",
              "4: packages: expected a package's name, NAME=VERSION or NAME/SUITE, found \"Crun\""},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"\npackages = [\"criu/\"]",
              "3: packages: expected a package's name"},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"\npackages = [\"linux-image-amd64\"]",
              "3: packages: expected no kernel, found \"linux-image-amd64\"\nhint: it is kernel.package"},
        Wrong{"!nmae = \"x\"\nname = \"x\"\nsuite = \"trixie\"\nhardware = [\"all\"]",
              "1: unknown key nmae\nhint: did you mean name?"},
        Wrong{"[kernle]\nconsole = \"\"", "5: unknown key kernle\nhint: did you mean kernel?"},
        Wrong{"kernel = \"linux-image-amd64\"",
              "5: kernel: expected a table, written [kernel], found a string"},
        Wrong{"keys = 1", "5: keys: expected a string, found 1"},
        Wrong{"[mirror]\nurl = \"a b\"", "6: mirror.url: expected the mirror's URL"},
        Wrong{"name = 1", "5: "}, Wrong{"x", "5: "}));

INSTANTIATE_TEST_SUITE_P(
    Kernel, WrongImageDefinition,
    testing::Values(
        Wrong{"[kernel]\npackage = \"vmlinuz\"", "6: kernel.package: expected a package of Debian's kernel"},
        Wrong{"[kernel]\npackage = \"linux-image-A\"", "6: packages: expected a package's name"},
        Wrong{"[kernel]\ncommand_line = \"quiet\"", "6: kernel.command_line: expected a list of strings"},
        Wrong{"[kernel]\ncommand_line = [\n\"quiet\",\n\"a b\"]",
              "8: kernel.command_line: expected one word of letters, digits and -_.,:=/@+%~ in each string, "
              "found \"a b\""},
        Wrong{"[kernel]\ncommand_line = [\"\"]", "6: kernel.command_line: expected one word"},
        Wrong{"[kernel]\ncommand_line = [\"x=$(reboot)\"]", "6: kernel.command_line: expected one word"},
        Wrong{"[kernel]\ncommand_line = [\"a;b\"]", "6: kernel.command_line: expected one word"},
        Wrong{"[kernel]\ncommand_line = [\"a\\nb\"]", "6: kernel.command_line: expected one word"},
        Wrong{"[kernel]\ncommand_line = [\"root=/dev/sda1\"]",
              "6: kernel.command_line: expected nothing that drover says there itself (the root, init, "
              "drover.*), "
              "found \"root=/dev/sda1\""},
        Wrong{"[kernel]\ncommand_line = [\"init=/bin/sh\"]",
              "6: kernel.command_line: expected nothing that drover"},
        Wrong{"[kernel]\ncommand_line = [\"drover.slot=a\"]",
              "6: kernel.command_line: expected nothing that drover"},
        Wrong{"[kernel]\ncommand_line = [\"console=tty0\"]",
              "6: kernel.command_line: expected no console, found \"console=tty0\"\nhint: it is "
              "kernel.console"},
        Wrong{"[kernel]\nconsole = \"ttyS0\"",
              "6: kernel.console: expected ttyS0 to ttyS3 and a speed up to 115200, such as "
              "\"ttyS0,115200\", or \"\", "
              "found \"ttyS0\""},
        Wrong{"[kernel]\nconsole = \"ttyS4,115200\"", "6: kernel.console: expected ttyS0 to ttyS3"},
        Wrong{"[kernel]\nconsole = \"ttyS0,115201\"", "6: kernel.console: expected ttyS0 to ttyS3"},
        Wrong{"[kernel]\nconsole = \"hvc0,115200\"", "6: kernel.console: expected ttyS0 to ttyS3"},
        Wrong{"[kernel]\ncommandline = []",
              "6: unknown key kernel.commandline\nhint: did you mean command_line?"}));

INSTANTIATE_TEST_SUITE_P(
    Parts, WrongImageDefinition,
    testing::Values(
        Wrong{"[strip]\ndrop = [\"/a\",\n\"b\"]",
              "7: strip.drop: expected absolute paths, with * and ? as a shell knows them, found \"b\""},
        Wrong{"[strip]\nkeep = [\"/a/../b\"]", "6: strip.keep: expected absolute paths"},
        Wrong{"[strip]\ndrop = [\"/\"]", "6: strip.drop: expected absolute paths"},
        Wrong{"[strip]\npaths = [\"/a\"]", "6: unknown key strip.paths\nhint: "},
        Wrong{"[strip]\nlocales = 1", "6: strip.locales: expected true or false, found 1"},
        Wrong{"[root]\ncompression = \"zst\"",
              "6: root.compression: expected lz4, lz4hc, zstd or lzma, and a level as in \"zstd,12\", found "
              "\"zst\"\n"
              "hint: did you mean zstd?"},
        Wrong{"[root]\ncompression = \"\"", "6: root.compression: expected lz4, lz4hc, zstd or lzma"},
        Wrong{"[root]\ncompression = \"lz4,9\"",
              "6: root.compression: expected lz4 without a level, found \"lz4,9\""},
        Wrong{"[root]\ncompression = \"lz4hc,13\"",
              "6: root.compression: expected lz4hc with a level from 0 to 12, found \"lz4hc,13\""},
        Wrong{"[root]\ncompression = \"zstd,23\"",
              "6: root.compression: expected zstd with a level from 0 to 22"},
        Wrong{"[root]\ncompression = \"zstd,\"",
              "6: root.compression: expected zstd with a level from 0 to 22"},
        Wrong{"[root]\ncompression = \"zstd,-1\"", "6: root.compression: expected zstd with a level"},
        Wrong{"[root]\ncompression = \"zstd,100\"", "6: root.compression: expected zstd with a level"},
        Wrong{"[root]\ncompression = \"zstd,3,dictsize=1\"",
              "6: root.compression: expected zstd with a level"},
        Wrong{"[root]\ncompression = \"zstd,99999999999\"",
              "6: root.compression: expected zstd with a level"},
        Wrong{
            "[root]\ncompression = \"lzma,99\"",
            "6: root.compression: expected lzma with a level from 0 to 9, or 100 to 109, found \"lzma,99\""},
        Wrong{"[root]\ncluster = 65537",
              "6: root.cluster: expected a power of two from 4096 to 1048576, found 65537"},
        Wrong{"[root]\ncluster = 2048",
              "6: root.cluster: expected a whole number from 4096 to 1048576, found 2048"},
        Wrong{"[root]\ncluster = \"64K\"", "6: root.cluster: expected a whole number"},
        Wrong{"[slots]\nsize = \"8M\"",
              "6: slots.size: expected a size from \"16M\" to \"64T\", such as \"512M\" or \"2G\", found "
              "\"8M\""},
        Wrong{"[slots]\nsize = \"65T\"", "6: slots.size: expected a size"},
        Wrong{"[slots]\nsize = \"4294967295T\"", "6: slots.size: expected a size"},
        Wrong{"[slots]\nsize = \"\"", "6: slots.size: expected a size"},
        Wrong{"[slots]\nsize = \"M\"", "6: slots.size: expected a size"},
        Wrong{"[slots]\nsize = \"512\"", "6: slots.size: expected a size"},
        Wrong{"[slots]\nsize = \"512m\"", "6: slots.size: expected a size"},
        Wrong{"[slots]\nsize = \"-1G\"", "6: slots.size: expected a size"},
        Wrong{"[slots]\nsize = \"1.5G\"", "6: slots.size: expected a size"},
        Wrong{"[slots]\nsize = 512", "6: slots.size: expected a string, found 512"},
        Wrong{"[slots]\nfactor = 0", "6: slots.factor: expected a whole number from 1 to 100, found 0"},
        Wrong{"[slots]\nfactor = 4\nsize = \"1G\"",
              "6: slots: size and factor exclude each other: expected one of them"},
        Wrong{"[data]\nfile_system = \"btrfs\"",
              "6: data.file_system: expected ext4 or xfs, found \"btrfs\""},
        Wrong{"[data]\nfile_system = \"xfs\"",
              "6: data.file_system: expected ext4, or xfs with the package xfsprogs among packages, found "
              "\"xfs\""},
        Wrong{"!name = \"x\"\nsuite = \"trixie\"\nhardware = [\"all\"]\npackages = [\"xfsprogs\"]\n[data]\n"
              "file_system = \"xfs\"\nsize = \"300M\"",
              "7: data.size: expected a size from \"320M\" to \"64T\""},
        Wrong{"[data]\nsize = \"63M\"", "6: data.size: expected a size from \"64M\" to \"64T\""}));

INSTANTIATE_TEST_SUITE_P(
    Lists, WrongImageDefinition,
    testing::Values(
        Wrong{"[[file]]\npath = \"/x\"",
              "5: file /x: expected exactly one of content, source, symlink and directory"},
        Wrong{"[[file]]\npath = \"/x\"\ncontent = \"\"\nmod = \"0644\"",
              "8: unknown key file.mod\nhint: did you mean mode?"},
        Wrong{"[[file]]\npath = \"/x\"\ncontent = \"\"\n[[file]]\npath = \"/x\"\nsymlink = \"y\"",
              "8: file: expected each path once, found /x again"},
        Wrong{"[user]\nname = \"a\"", "5: user: expected tables, each written [[user]]"},
        Wrong{"[[user]]\nuid = 1", "5: user.name is missing: expected the user's name"},
        Wrong{"[[user]]\nname = \"Alice\"",
              "6: user.name: expected lower-case letters, digits, _ and - (at most 32)"},
        Wrong{"[[user]]\nname = \"a:b\"", "6: user.name: expected lower-case letters"},
        Wrong{"[[user]]\nname = \"-a\"", "6: user.name: expected lower-case letters"},
        Wrong{"[[user]]\nname = \"1000\"", "6: user.name: expected lower-case letters"},
        Wrong{"[[user]]\nname = \"a\"\nuid = 0",
              "7: user.uid: expected a whole number from 1 to 65533, found 0"},
        Wrong{"[[user]]\nname = \"root\"\nuid = 1", "7: user.uid: expected 0 for root, found 1"},
        Wrong{"[[user]]\nname = \"a\"\ngroups = [\"a,b\"]",
              "7: user.groups: expected names of groups, found \"a,b\""},
        Wrong{"[[user]]\nname = \"a\"\nshell = \"bash\"",
              "7: user.shell: expected the absolute path of a program, found \"bash\""},
        Wrong{"[[user]]\nname = \"a\"\nshell = \"/bin/sh:\\nroot\"",
              "7: user.shell: expected the absolute path"},
        Wrong{"[[user]]\nname = \"a\"\nssh_keys = [\n\"ssh-rsa AAAA\"]",
              "8: user.ssh_keys: expected the line of a .pub file (TYPE BASE64 COMMENT), found a key of type "
              "ssh-rsa "
              "that is cut off or changed"},
        Wrong{"[[user]]\nname = \"a\"\nssh_key = \"\"",
              "7: unknown key user.ssh_key\nhint: did you mean ssh_keys?"},
        Wrong{"[[user]]\nname = \"a\"\n[[user]]\nname = \"a\"",
              "7: user: expected each name once, found a again"},
        Wrong{"[[user]]\nname = \"a\"\nuid = 7\n[[user]]\nname = \"b\"\nuid = 7",
              "8: user: expected each uid once, found 7 again"},
        Wrong{"[[health]]\ncommand = [\"/bin/true\"]",
              "5: health.name is missing: expected what the check is called"},
        Wrong{"[[health]]\nname = \"a b\"", "6: health.name: expected lower-case letters"},
        Wrong{"[[health]]\nname = \"a\"",
              "5: health.command is missing: expected a program and its arguments"},
        Wrong{"[[health]]\nname = \"a\"\ncommand = [\"true\"]",
              "7: health.command: expected the absolute path of a program first, found \"true\""},
        Wrong{"[[health]]\nname = \"a\"\ncommand = [\"/bin/true\"]\nseconds = 0",
              "8: health.seconds: expected a whole number from 1 to 3600, found 0"},
        Wrong{"[[health]]\nname = \"a\"\ncommand = [\"/bin/true\"]\n[[health]]\nname = \"a\"\ncommand = "
              "[\"/bin/true\"]",
              "8: health: expected each name once, found a again"}));

}  // namespace
}  // namespace image
