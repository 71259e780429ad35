#include "image/definition.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <filesystem>
#include <format>
#include <functional>
#include <iterator>
#include <set>

#include "base/error.h"
#include "base/fd.h"
#include "base/text.h"
#include "base/toml_table.h"
#include "image/definition_hash.h"
#include "image/hardware.h"
#include "image/ssh_key.h"

namespace image {
namespace {

namespace fs = std::filesystem;
using base::conflict;
using base::TomlTable;

constexpr size_t kMostText = 1 << 20;
constexpr uint64_t kMiB = 1 << 20;

constexpr unsigned kMostBases = 8;

std::string in_quotes(std::string_view text) { return std::format("\"{}\"", text); }

/// Adds to what a definition starts from; what has the same name takes the place of what it was there.
template <class Part, class Name>
void add(std::vector<Part>& parts, std::vector<Part> more, Name name) {
  std::erase_if(parts,
                [&](const Part& part) { return std::ranges::contains(more, std::invoke(name, part), name); });
  std::ranges::move(more, std::back_inserter(parts));
}

std::string package_of(const base::Word& word) { return word.text.substr(0, word.text.find_first_of("=/")); }
std::string parameter_of(const base::Word& word) { return word.text.substr(0, word.text.find('=')); }

/// `wrong` with what the word was probably meant to be.
base::Error unknown(base::Error error, std::string_view word, const std::vector<std::string>& known) {
  if (std::string close = base::closest(word, known); !close.empty())
    return std::move(error).hint(std::format("did you mean {}?", close));
  return error;
}

std::string or_list(const std::vector<std::string>& words) {
  std::string text;
  for (size_t i = 0; i < words.size(); ++i)
    text += (i == 0 ? "" : i + 1 < words.size() ? ", " : " or ") + words[i];
  return text;
}

void check_name(TomlTable& in, const std::string& name) {
  if (name.size() > 63 || !rootfs::only(name, std::string(rootfs::kLowerDigits) + ".+-") ||
      !rootfs::only(name.substr(0, 1), rootfs::kLowerDigits))
    throw in.wrong("name", "lower-case letters, digits and . + - (at most 63)", in_quotes(name));
}

std::optional<unsigned> number_of(std::string_view text) {
  unsigned number = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

/// "256M": whole MiB (M), GiB (G) or TiB (T), at least `least` bytes and at most 64 TiB.
std::optional<uint64_t> parse_size(TomlTable& in, uint64_t least) {
  auto text = in.text("size");
  if (!text) return std::nullopt;
  constexpr std::string_view kUnits = "MGT";
  size_t unit = text->empty() ? std::string_view::npos : kUnits.find(text->back());
  auto number = number_of(std::string_view(*text).substr(0, text->empty() ? 0 : text->size() - 1));
  constexpr uint64_t kMost = 64ULL << 40;
  uint64_t bytes = unit == std::string_view::npos || !number ? 0 : *number * (kMiB << (10 * unit));
  if (bytes < least || bytes > kMost)
    throw in.wrong("size",
                   std::format("a size from \"{}M\" to \"64T\", such as \"512M\" or \"2G\"", least / kMiB),
                   in_quotes(*text));
  return bytes;
}

void check_hardware(const std::vector<base::Word>& words) {
  std::vector<std::string> known = {"all"};
  for (const Family& family : hardware_families()) known.emplace_back(family.name);
  for (const auto& [text, place] : words) {
    if (std::ranges::find(known, text) == known.end()) {
      base::Error error =
          conflict(place, "hardware: expected families of drivers, or \"all\", found " + in_quotes(text));
      if (base::closest(text, known).empty()) throw std::move(error).hint("families are: " + or_list(known));
      throw unknown(std::move(error), text, known);
    }
    if (text == "all" && words.size() > 1)
      throw conflict(place, "hardware: expected \"all\" alone: it has every family in it");
  }
}

void check_packages(const std::vector<base::Word>& packages) {
  rootfs::check_packages(packages);
  for (const auto& [text, place] : packages)
    if (text.starts_with("linux-image-"))
      throw conflict(place, "packages: expected no kernel, found " + in_quotes(text))
          .hint("it is kernel.package");
}

/// What GRUB's script and the kernel both read as one word, and nobody else says.
void check_command_line(const std::vector<base::Word>& words) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.,:=/@+%~";
  constexpr std::array<std::string_view, 6> kOurs = {"root", "rootfstype", "rootflags",
                                                     "init", "rdinit",     "initrd"};
  for (const auto& [text, place] : words) {
    if (!rootfs::only(text, kAllowed))
      throw conflict(place, std::format("kernel.command_line: expected one word of letters, digits and "
                                        "-_.,:=/@+%~ in each string, found {}",
                                        in_quotes(text)));
    std::string key = text.substr(0, text.find('='));
    if (key == "console")
      throw conflict(place, "kernel.command_line: expected no console, found " + in_quotes(text))
          .hint("it is kernel.console");
    if (key.starts_with("drover.") || std::ranges::find(kOurs, key) != kOurs.end())
      throw conflict(place, std::format("kernel.command_line: expected nothing that drover says there itself "
                                        "(the root, init, drover.*), found {}",
                                        in_quotes(text)));
  }
}

/// A serial line that GRUB knows too (its `serial` command: units 0 to 3), and its speed.
void check_console(TomlTable& in, const std::string& console) {
  constexpr std::array kSpeeds = {"9600", "19200", "38400", "57600", "115200"};
  bool good = console.starts_with("ttyS") && console.size() > 6 && console[4] >= '0' && console[4] <= '3' &&
              console[5] == ',' && std::ranges::find(kSpeeds, console.substr(6)) != kSpeeds.end();
  if (!good && !console.empty())
    throw in.wrong("console", "ttyS0 to ttyS3 and a speed up to 115200, such as \"ttyS0,115200\", or \"\"",
                   in_quotes(console));
}

void parse_kernel(TomlTable& in, Definition::Kernel& kernel) {
  if (auto package = in.text("package")) kernel.package = *package;
  if (!kernel.package.starts_with("linux-image-"))
    throw in.wrong("package", "a package of Debian's kernel, such as \"linux-image-amd64\"",
                   in_quotes(kernel.package));
  rootfs::check_packages({{.text = kernel.package, .place = in.place_of("package")}});
  std::vector<base::Word> command_line = in.words("command_line");
  check_command_line(command_line);
  add(kernel.command_line, std::move(command_line), parameter_of);
  if (auto console = in.text("console")) kernel.console = *console;
  check_console(in, kernel.console);
  in.finish();
}

void add_patterns(TomlTable& in, const std::string& key, std::vector<base::Word>& patterns) {
  for (base::Word& word : in.words(key)) {
    if (!rootfs::clean_absolute_path(word.text))
      throw conflict(word.place,
                     std::format("strip.{}: expected absolute paths, with * and ? as a shell knows them, "
                                 "found {}",
                                 key, in_quotes(word.text)));
    patterns.push_back(std::move(word));
  }
}

void parse_strip(TomlTable& in, Definition::Strip& strip) {
  strip.documentation = in.flag("documentation").value_or(strip.documentation);
  strip.locales = in.flag("locales").value_or(strip.locales);
  strip.caches = in.flag("caches").value_or(strip.caches);
  add_patterns(in, "keep", strip.keep);
  add_patterns(in, "drop", strip.drop);
  in.finish();
}

/// The algorithms that Debian 13's kernel reads and its mkfs.erofs (1.8) writes, and their levels there;
/// above 100 are lzma's extreme ones.
void check_compression(TomlTable& in, const std::string& text) {
  struct Algorithm {
    std::string name;
    unsigned least, most;
  };
  static const std::vector<Algorithm> kAlgorithms = {
      {"lz4", 0, 0}, {"lz4hc", 0, 12}, {"zstd", 0, 22}, {"lzma", 0, 9}};
  size_t comma = text.find(',');
  std::string name = text.substr(0, comma);
  auto algorithm = std::ranges::find(kAlgorithms, name, &Algorithm::name);
  if (algorithm == kAlgorithms.end()) {
    std::vector<std::string> known;
    for (const Algorithm& one : kAlgorithms) known.push_back(one.name);
    throw unknown(
        in.wrong("compression", or_list(known) + ", and a level as in \"zstd,12\"", in_quotes(text)), name,
        known);
  }
  if (comma == std::string::npos) return;
  if (algorithm->most == 0) throw in.wrong("compression", name + " without a level", in_quotes(text));
  auto level = number_of(std::string_view(text).substr(comma + 1));
  bool extreme = name == "lzma" && level && *level >= 100 && *level <= 109;
  if (!level || ((*level < algorithm->least || *level > algorithm->most) && !extreme))
    throw in.wrong("compression",
                   std::format("{} with a level from {} to {}{}", name, algorithm->least, algorithm->most,
                               name == "lzma" ? ", or 100 to 109" : ""),
                   in_quotes(text));
}

void parse_root(TomlTable& in, Definition::Root& root) {
  if (auto compression = in.text("compression")) root.compression = *compression;
  check_compression(in, root.compression);
  if (auto cluster = in.number("cluster", 4096, kMiB)) root.cluster = *cluster;
  if ((root.cluster & (root.cluster - 1)) != 0)
    throw in.wrong("cluster", "a power of two from 4096 to 1048576", std::to_string(root.cluster));
  in.finish();
}

void parse_slots(TomlTable& in, Definition::Slots& slots) {
  auto bytes = parse_size(in, 16 * kMiB);
  auto factor = in.number("factor", 1, 100);
  if (bytes && factor)
    throw conflict(in.place_of("factor"), "slots: size and factor exclude each other: expected one of them");
  if (bytes || factor) slots = {.bytes = bytes, .factor = factor.value_or(Definition::Slots().factor)};
  in.finish();
}

/// The least that mkfs.xfs makes is 300 MB; an ext4 below 64 MiB would have a journal of no use.
void parse_data(TomlTable& in, Definition::Data& data) {
  if (auto file_system = in.text("file_system")) data.file_system = *file_system;
  if (data.file_system != "ext4" && data.file_system != "xfs")
    throw in.wrong("file_system", "ext4 or xfs", in_quotes(data.file_system));
  if (auto bytes = parse_size(in, (data.file_system == "xfs" ? 320 : 64) * kMiB)) data.bytes = *bytes;
  in.finish();
}

/// As useradd(8) has it, CAVEATS.
bool valid_account(const std::string& name) {
  return name.size() <= 32 && rootfs::only(name, std::string(rootfs::kLowerDigits) + "_-") &&
         !rootfs::only(name.substr(0, 1), "0123456789-");
}

Definition::User parse_user(TomlTable& in) {
  Definition::User user;
  user.place = in.place();
  user.name = in.required_text("name", "the user's name");
  if (!valid_account(user.name))
    throw in.wrong("name", "lower-case letters, digits, _ and - (at most 32), a letter or _ first",
                   in_quotes(user.name));
  bool root = user.name == "root";
  user.uid = in.number("uid", root ? 0 : 1, rootfs::kLastId - 2);  // the last two are nobody's
  if (root && user.uid.value_or(0) != 0) throw in.wrong("uid", "0 for root", std::to_string(*user.uid));
  user.groups = in.texts("groups");
  for (const std::string& group : user.groups)
    if (!valid_account(group)) throw in.wrong("groups", "names of groups", in_quotes(group));
  if (auto shell = in.text("shell")) user.shell = *shell;
  constexpr std::string_view kInPaths = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._+-";
  if (!rootfs::clean_absolute_path(user.shell) || !rootfs::only(user.shell, kInPaths))
    throw in.wrong("shell", "the absolute path of a program", in_quotes(user.shell));
  for (const auto& [text, place] : in.words("ssh_keys")) {
    if (std::string problem = problem_with_ssh_key(text); !problem.empty())
      throw conflict(place, "user.ssh_keys: " + problem);
    user.ssh_keys.push_back(text);
  }
  in.finish();
  return user;
}

Definition::Health parse_health(TomlTable& in) {
  Definition::Health health;
  health.place = in.place();
  health.name = in.required_text("name", "what the check is called");
  check_name(in, health.name);
  health.command = in.texts("command");
  if (health.command.empty())
    throw in.missing("command",
                     "a program and its arguments, such as [\"/usr/bin/systemctl\", \"is-system-running\"]");
  if (!rootfs::clean_absolute_path(health.command.front()))
    throw in.wrong("command", "the absolute path of a program first", in_quotes(health.command.front()));
  health.seconds = in.number("seconds", 1, 3600).value_or(health.seconds);
  in.finish();
  return health;
}

/// No two with the same `key`: `what` is "user", "health" or "file".
template <class Part>
void check_distinct(const std::string& what, const std::string& key, const std::vector<Part>& parts,
                    std::string Part::* name) {
  std::set<std::string> seen;
  for (const Part& part : parts)
    if (!seen.insert(part.*name).second)
      throw conflict(part.place,
                     std::format("{}: expected each {} once, found {} again", what, key, part.*name));
}

std::vector<Definition::File> parse_files(TomlTable& in, const std::string& directory) {
  std::vector<Definition::File> files;
  for (TomlTable& entry : in.tables("file")) {
    files.push_back(rootfs::parse_file(entry, directory));
    files.back().early = entry.flag("early").value_or(false);
    entry.finish();
  }
  check_distinct("file", "path", files, &Definition::File::path);
  return files;
}

std::vector<Definition::User> parse_users(TomlTable& in) {
  std::vector<Definition::User> users;
  for (TomlTable& entry : in.tables("user")) users.push_back(parse_user(entry));
  check_distinct("user", "name", users, &Definition::User::name);
  return users;
}

std::vector<Definition::Health> parse_checks(TomlTable& in) {
  std::vector<Definition::Health> checks;
  for (TomlTable& entry : in.tables("health")) checks.push_back(parse_health(entry));
  check_distinct("health", "name", checks, &Definition::Health::name);
  return checks;
}

void parse_tables(TomlTable& in, Definition& definition, const std::string& directory) {
  if (auto mirror = in.table("mirror")) definition.mirror = rootfs::parse_mirror(*mirror, directory);
  if (auto kernel = in.table("kernel")) parse_kernel(*kernel, definition.kernel);
  if (auto strip = in.table("strip")) parse_strip(*strip, definition.strip);
  if (auto root = in.table("root")) parse_root(*root, definition.root);
  if (auto slots = in.table("slots")) parse_slots(*slots, definition.slots);
  if (auto data = in.table("data")) parse_data(*data, definition.data);
  add(definition.files, parse_files(in, directory), &Definition::File::path);
  add(definition.users, parse_users(in), &Definition::User::name);
  add(definition.health, parse_checks(in), &Definition::Health::name);
}

/// What a file says, on top of what the one that it is from says. Nothing needs to be there.
Definition parse_file(TomlTable& in, const std::string& directory, unsigned bases = 0) {
  Definition definition;
  if (auto from = in.text("from")) {
    if (bases == kMostBases)
      throw in.wrong("from", std::format("at most {} definitions, each from the next", kMostBases),
                     in_quotes(*from));
    fs::path path = fs::path(directory) / *from;
    TomlTable base = TomlTable::parse(rootfs::read_beside(in, "from", path), path);
    definition = parse_file(base, path.parent_path(), bases + 1);
  }
  definition.file = in.file();
  if (auto name = in.text("name")) check_name(in, *name);
  definition.name = in.text("name").value_or("");
  definition.description = in.text("description").value_or("");
  if (in.text("suite")) definition.suite = rootfs::parse_suite(in);
  if (auto keys = in.text("keys"))
    definition.keys = fs::absolute(fs::path(directory) / *keys).lexically_normal();
  std::vector<base::Word> packages = in.words("packages"), hardware = in.words("hardware");
  check_packages(packages);
  add(definition.packages, std::move(packages), package_of);
  add(definition.hardware, std::move(hardware), &base::Word::text);
  check_hardware(definition.hardware);
  parse_tables(in, definition, directory);
  in.finish();
  return definition;
}

/// What only holds for all files together.
void check_whole(TomlTable& in, const Definition& definition) {
  if (definition.name.empty()) throw in.missing("name", "the image's name");
  if (definition.suite.empty()) rootfs::parse_suite(in);  // which says so
  if (definition.hardware.empty())
    throw in.missing("hardware", "families of drivers such as [\"nvme\", \"igb\"], or [\"all\"]");
  std::set<unsigned> uids;
  for (const Definition::User& user : definition.users)
    if (user.uid && !uids.insert(*user.uid).second)
      throw conflict(user.place, std::format("user: expected each uid once, found {} again", *user.uid));
  // Debian has the tools for ext4 in every root.
  auto has_tools = [](const base::Word& word) { return package_of(word) == "xfsprogs"; };
  if (definition.data.file_system == "xfs" && std::ranges::none_of(definition.packages, has_tools))
    throw in.table("data").value_or(in).wrong(
        "file_system", "ext4, or xfs with the package xfsprogs among packages", in_quotes("xfs"));
}

}  // namespace

Definition parse_definition(std::string_view text, const std::string& file, const std::string& directory) {
  TomlTable in = TomlTable::parse(text, file);
  Definition definition = parse_file(in, directory);
  check_whole(in, definition);
  definition.hash = hash_of(definition);
  return definition;
}

Definition read_definition(const std::string& path) {
  auto text = base::read_file_if_exists(path, kMostText);
  if (!text)
    throw base::error("there is no definition {}", path)
        .hint("name a TOML file, such as those in image/definitions");
  return parse_definition(*text, path, fs::absolute(path).parent_path());
}

}  // namespace image
