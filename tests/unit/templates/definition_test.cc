#include "templates/definition.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/unit/templates/samples.h"

namespace templates {
namespace {

Definition parse(const std::string& text) { return parse_definition(text, "x.toml", "/nonexistent"); }

constexpr const char* kOs = R"(
name = "tiny"
packages = ["busybox-static", "less=668-1"]
[distribution]
suite = "trixie"
variant = "extract"
[box]
init = ["/bin/sh"]
)";

TEST(Definition, OfAnOsTemplate) {
  Definition tiny = parse(kOs);
  EXPECT_EQ(tiny.name, "tiny");
  ASSERT_TRUE(tiny.distribution);
  EXPECT_EQ(tiny.distribution->suite, "trixie");
  EXPECT_EQ(tiny.distribution->variant, "extract");
  EXPECT_EQ(tiny.mirror.url, "");
  EXPECT_EQ(tiny.mirror.components, std::vector<std::string>{"main"});
  ASSERT_EQ(tiny.packages.size(), 2u);
  EXPECT_EQ(tiny.packages[1].text, "less=668-1");
  EXPECT_EQ(tiny.packages[1].place, "x.toml:3");
  EXPECT_TRUE(tiny.strip.documentation && tiny.strip.locales && tiny.strip.caches);
}

TEST(Definition, OfAnApplicationTemplate) {
  Definition app = parse(R"(
name = "app"
description = "an app"
base = "debian-13@2026112101"
commands = ["true", """
  echo two
"""]
[mirror]
url = "https://mirror.example/debian"
components = ["main", "contrib"]
[strip]
documentation = false
paths = ["/usr/share/x*", "/opt"]
[box]
init = ["/usr/bin/tini", "--", "/usr/bin/app"]
env = { A = "1", B = "x y" }
working_dir = "/srv"
stop_signal = "SIGINT"
stop_seconds = 5
control_groups = true
[[file]]
path = "/etc/app.conf"
content = "a = 1\n"
mode = "0640"
owner = "app:adm"
early = true
[[file]]
path = "/etc/link"
symlink = "app.conf"
[[file]]
path = "/srv/data"
directory = true
owner = "1000"
)");
  EXPECT_EQ(app.base.text, "debian-13@2026112101");
  EXPECT_EQ(app.base.place, "x.toml:4");
  EXPECT_FALSE(app.distribution);
  EXPECT_EQ(app.commands.size(), 2u);
  EXPECT_EQ(app.mirror.components.size(), 2u);
  EXPECT_FALSE(app.strip.documentation);
  EXPECT_EQ(app.strip.paths.size(), 2u);
  EXPECT_EQ(app.box.init->size(), 3u);
  EXPECT_EQ(app.box.env.at("B"), "x y");
  EXPECT_EQ(app.box.stop_signal, "SIGINT");
  EXPECT_EQ(app.box.stop_seconds, 5u);
  EXPECT_EQ(app.box.control_groups, true);
  ASSERT_EQ(app.files.size(), 3u);
  EXPECT_EQ(app.files[0].mode, 0640u);
  EXPECT_EQ(app.files[0].owner + ":" + app.files[0].group, "app:adm");
  EXPECT_TRUE(app.files[0].early);
  EXPECT_EQ(app.files[1].kind, Definition::File::Kind::kSymlink);
  EXPECT_EQ(app.files[2].kind, Definition::File::Kind::kDirectory);
  EXPECT_EQ(app.files[2].mode, 0755u);
  EXPECT_EQ(app.files[2].group, "1000");
}

TEST(Definition, FilesAreReadBesideIt) {
  base::TempDir directory = base::TempDir::make("/tmp", "definition-");
  base::write_file(directory.path() + "/motd", "welcome\n");
  base::write_file(directory.path() + "/x.toml",
                   std::string(kOs) + "[[file]]\npath = \"/etc/motd\"\nsource = \"motd\"\n");
  EXPECT_EQ(read_definition(directory.path() + "/x.toml").files.at(0).content, "welcome\n");
}

/// Text that is put behind kOs (or stands alone when it begins with "!"), and the whole error.
struct Wrong {
  const char* text;
  const char* says;
};

class WrongDefinition : public testing::TestWithParam<Wrong> {};

TEST_P(WrongDefinition, IsExplained) {
  std::string text = GetParam().text;
  text = text.starts_with("!") ? text.substr(1) : kOs + text;
  std::string error = thrown([&] { parse(text); });
  EXPECT_TRUE(error.starts_with(std::string("error: ") + GetParam().says)) << text << "\n" << error;
}

INSTANTIATE_TEST_SUITE_P(
    Top, WrongDefinition,
    testing::Values(
        Wrong{"!", "x.toml:1: name is missing: expected the template's name"},
        Wrong{"!name = \"x\"", "x.toml:1: base is missing: expected the name of an OS template, or a table"},
        Wrong{"!name = \"x\"\nnmae = 1\nbase = \"y\"",
              "x.toml:2: unknown key nmae\nhint: did you mean name?"},
        Wrong{"!name = \"x\"\nbase = \"y\"\nzzzzzzzz = 1",
              "x.toml:3: unknown key zzzzzzzz\nhint: known here are: base,"},
        Wrong{"!name = \"x\"\nbase = \"y\"\n[strop]\ncaches = true",
              "x.toml:3: unknown key strop\nhint: did you mean strip?"},
        Wrong{"!name = \"Not Good\"\nbase = \"y\"", "x.toml:1: name: expected lower-case letters"},
        Wrong{"!name = \"../x\"\nbase = \"y\"", "x.toml:1: name: expected lower-case letters"},
        Wrong{"!name = 7\nbase = \"y\"", "x.toml:1: name: expected a string, found 7"},
        Wrong{"!name = \"x\"\nbase = \"y z\"",
              "x.toml:2: base: expected NAME or NAME@VERSION of a template, found \"y z\""},
        Wrong{"!name = \"x\"\nbase = \"y\"\n[distribution]\nsuite = \"trixie\"",
              "x.toml:2: base and [distribution] exclude each other"},
        Wrong{"!name = \"x\"\nbase = \"y\"\npackages = \"redis\"",
              "x.toml:3: packages: expected a list of strings, found a string"},
        Wrong{"!name = \"x\"\nbase = \"y\"\npackages = [\n\"redis\",\n5]",
              "x.toml:5: packages: expected a string, found 5"},
        Wrong{"!name = \"x\"\nbase = \"y\"\npackages = [\"Redis\"]",
              "x.toml:3: packages: expected a package's name"},
        Wrong{"!name = \"x\"\nbase = \"y\"\npackages = [\"-oDebug=1\"]",
              "x.toml:3: packages: expected a package's name"},
        Wrong{"!name = \"x\"\nbase = \"y\"\npackages = [\"redis-\"]",
              "x.toml:3: packages: expected a package's name"},
        Wrong{"!name = \"x\"\nbase = \"y\"\npackages = [\"redis=\"]",
              "x.toml:3: packages: expected a package's name"},
        Wrong{"!name = \"x\"\nbase = \"y\"\ncommands = [[\"a\"]]",
              "x.toml:3: commands: expected a string, found a list"},
        Wrong{"!name = \"x\"\nbase = \"y\"\ndescription = \"a\\u0000b\"",
              "x.toml:3: description: expected a string without zero bytes"}));

INSTANTIATE_TEST_SUITE_P(
    Tables, WrongDefinition,
    testing::Values(
        Wrong{"!name = \"x\"\ndistribution = \"trixie\"",
              "x.toml:2: distribution: expected a table, written [distribution]"},
        Wrong{"!name = \"x\"\n[distribution]\nvariant = \"apt\"", "x.toml:2: distribution.suite is missing"},
        Wrong{"!name = \"x\"\n[distribution]\nsuite = \"../sid\"",
              "x.toml:3: distribution.suite: expected a Debian suite"},
        Wrong{"!name = \"x\"\n[distribution]\nsuite = \"sid\"\nvariant = \"big\"",
              "x.toml:4: distribution.variant: expected extract, essential, apt, required or important, "
              "found \"big\""},
        Wrong{"!name = \"x\"\n[distribution]\nsuite = \"sid\"", "x.toml:1: box.init is missing"},
        Wrong{"[mirror]\nurl = \"not a url\"", "x.toml:10: mirror.url: expected the mirror's URL"},
        Wrong{"[mirror]\nurl = \"http://a/ [trusted=yes]\"",
              "x.toml:10: mirror.url: expected the mirror's URL"},
        Wrong{"[mirror]\nkeyring = \"k.gpg\"",
              "x.toml:10: mirror.keyring: expected a file with the mirror's keys"},
        Wrong{"[mirror]\ncomponents = [\"main]\"]", "x.toml:10: mirror.components: expected components"},
        Wrong{"[strip]\ndocumentation = \"no\"",
              "x.toml:10: strip.documentation: expected true or false, found a string"},
        Wrong{"[strip]\npaths = [\"usr/share\"]", "x.toml:10: strip.paths: expected absolute paths"},
        Wrong{"[strip]\npaths = [\"/usr/../etc\"]", "x.toml:10: strip.paths: expected absolute paths"},
        Wrong{"[strip]\ndocumentatoin = true",
              "x.toml:10: unknown key strip.documentatoin\nhint: did you mean documentation?"},
        Wrong{"!name = \"x\"\nbase = \"y\"\n[box]\ninit = [\"sh\"]",
              "x.toml:3: box: expected init to begin with the absolute path of a program"},
        Wrong{"!name = \"x\"\nbase = \"y\"\n[box]\nstop_signal = \"KILL\"",
              "x.toml:3: box: expected stop_signal to be one of"},
        Wrong{"!name = \"x\"\nbase = \"y\"\n[box]\nstop_seconds = 0",
              "x.toml:4: box.stop_seconds: expected a whole number from 1 to 3600, found 0"},
        Wrong{"!name = \"x\"\nbase = \"y\"\n[box]\nenv = { A = 1 }",
              "x.toml:4: box.env.A: expected a string, found 1"},
        Wrong{"!name = \"x\"\nbase = \"y\"\n[box]\nenv = { \"A=B\" = \"1\" }",
              "x.toml:3: box: expected no variable called"},
        Wrong{"!name = \"x\"\nbase = \"y\"\n[box]\nworking_dir = \"tmp\"",
              "x.toml:3: box: expected working_dir"}));

INSTANTIATE_TEST_SUITE_P(
    Files, WrongDefinition,
    testing::Values(
        Wrong{"[file]\npath = \"/x\"", "x.toml:9: file: expected tables, each written [[file]]"},
        Wrong{"[[file]]\ncontent = \"\"", "x.toml:9: file.path is missing"},
        Wrong{"[[file]]\npath = \"x\"\ncontent = \"\"", "x.toml:10: file.path: expected an absolute path"},
        Wrong{"[[file]]\npath = \"/a/../../x\"\ncontent = \"\"",
              "x.toml:10: file.path: expected an absolute path"},
        Wrong{"[[file]]\npath = \"/\"\ncontent = \"\"", "x.toml:10: file.path: expected an absolute path"},
        Wrong{
            "[[file]]\npath = \"/x\"",
            "x.toml:9: file /x: expected exactly one of content, source, symlink and directory, found none"},
        Wrong{"[[file]]\npath = \"/x\"\ncontent = \"\"\nsymlink = \"y\"",
              "x.toml:9: file /x: expected exactly one of content, source, symlink and directory, found 2"},
        Wrong{"[[file]]\npath = \"/x\"\nsource = \"y\"",
              "x.toml:11: file.source: expected a file beside the definition, found no file /nonexistent/y"},
        Wrong{"[[file]]\npath = \"/x\"\nsymlink = \"\"", "x.toml:11: file.symlink: expected where it leads"},
        Wrong{"[[file]]\npath = \"/x\"\ncontent = \"\"\nmode = 0o755",
              "x.toml:12: file.mode: expected a string, found 493"},
        Wrong{"[[file]]\npath = \"/x\"\ncontent = \"\"\nmode = \"rwx\"",
              "x.toml:12: file.mode: expected octal digits in quotes"},
        Wrong{"[[file]]\npath = \"/x\"\ncontent = \"\"\nmode = \"17777\"",
              "x.toml:12: file.mode: expected at most"},
        Wrong{"[[file]]\npath = \"/x\"\ncontent = \"\"\nowner = \"a b\"",
              "x.toml:12: file.owner: expected USER or USER:GROUP"},
        Wrong{"[[file]]\npath = \"/x\"\ncontent = \"\"\nowner = \"65536\"",
              "x.toml:12: file.owner: expected USER or USER:GROUP"},
        Wrong{"[[file]]\npath = \"/x\"\ncontent = \"\"\nowner = \"99999999999999999999\"",
              "x.toml:12: file.owner: expected"},
        Wrong{"[[file]]\npath = \"/x\"\ncontnt = \"\"", "x.toml:9: file /x: expected exactly one of"}));

INSTANTIATE_TEST_SUITE_P(Toml, WrongDefinition,
                         testing::Values(Wrong{"!name = x", "x.toml:1: "},
                                         Wrong{"!\n\nname = \"x", "x.toml:3: "},
                                         Wrong{"!name = \"x\"\nname = \"y\"", "x.toml:2: "},
                                         Wrong{"!\xff\xfe", "x.toml:1: "}));

TEST(Definition, ThatIsNotThere) {
  std::string error = thrown([] { read_definition("/nonexistent/x.toml"); });
  EXPECT_TRUE(error.starts_with("error: there is no definition /nonexistent/x.toml\nhint: ")) << error;
}

TEST(Definition, ShippedOnesAreGood) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator("templates/definitions")) {
    if (entry.path().extension() != ".toml") continue;
    Definition definition = read_definition(entry.path());
    EXPECT_EQ(definition.name, entry.path().stem());
    EXPECT_TRUE(definition.box.init) << definition.name;
    names.push_back(definition.name);
  }
  EXPECT_GE(names.size(), 6u);
}

}  // namespace
}  // namespace templates
