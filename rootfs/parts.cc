#include "rootfs/parts.h"

#include <filesystem>

#include "base/fd.h"

namespace rootfs {
namespace {

constexpr size_t kMostSource = 64 << 20;

unsigned parse_mode(base::TomlTable& in, unsigned otherwise) {
  auto mode = in.text("mode");
  if (!mode) return otherwise;
  if (mode->size() > 5 || !only(*mode, "01234567"))
    throw in.wrong("mode", "octal digits in quotes such as \"0755\"", '"' + *mode + '"');
  auto value = static_cast<unsigned>(std::stoul(*mode, nullptr, 8));
  if (value > 07777) throw in.wrong("mode", "at most \"7777\"", '"' + *mode + '"');
  return value;
}

void parse_owner(base::TomlTable& in, File& file) {
  auto owner = in.text("owner");
  if (!owner) return;
  auto valid = [](const std::string& name) {
    if (name.size() > 32 || !only(name, std::string(kLowerDigits) + "_-")) return false;
    return !only(name, "0123456789") || (name.size() <= 5 && std::stoul(name) <= kLastId);
  };
  size_t colon = owner->find(':');
  file.owner = owner->substr(0, colon);
  file.group = colon == std::string::npos ? file.owner : owner->substr(colon + 1);
  if (!valid(file.owner) || !valid(file.group))
    throw in.wrong("owner", "USER or USER:GROUP, names or numbers up to 65535", '"' + *owner + '"');
}

}  // namespace

std::string read_beside(base::TomlTable& in, const std::string& key, const std::string& path) {
  auto content = base::read_file_if_exists(path, kMostSource);
  if (!content) throw in.wrong(key, "a file beside the definition", "no file " + path);
  return *content;
}

bool only(std::string_view text, std::string_view allowed) {
  return !text.empty() && text.find_first_not_of(allowed) == std::string_view::npos;
}

bool clean_absolute_path(const std::string& path) {
  return path.starts_with('/') && path.size() > 1 && path.size() < 4096 &&
         std::filesystem::path(path).lexically_normal() == path && !path.ends_with('/');
}

std::string parse_suite(base::TomlTable& in) {
  std::string suite = in.required_text("suite", "a Debian suite such as \"trixie\"");
  if (!only(suite, std::string(kLowerDigits) + "-"))
    throw in.wrong("suite", "a Debian suite such as \"trixie\"", '"' + suite + '"');
  return suite;
}

Mirror parse_mirror(base::TomlTable& in, const std::string& directory) {
  Mirror mirror;
  if (auto url = in.text("url")) {
    mirror.url = *url;
    if (!url->contains(":/") || url->find_first_of(" \t\n[]") != std::string::npos)
      throw in.wrong("url", "the mirror's URL", '"' + *url + '"');
  }
  if (auto keyring = in.text("keyring")) {
    mirror.keyring = std::filesystem::absolute(std::filesystem::path(directory) / *keyring);
    if (!base::exists(mirror.keyring))
      throw in.wrong("keyring", "a file with the mirror's keys", "no file " + mirror.keyring);
  }
  if (auto components = in.texts("components"); !components.empty()) mirror.components = components;
  for (const std::string& component : mirror.components)
    if (!only(component, std::string(kLowerDigits) + "-/"))
      throw in.wrong("components", "components such as \"main\"", '"' + component + '"');
  in.finish();
  return mirror;
}

File parse_file(base::TomlTable& in, const std::string& directory) {
  File file;
  file.place = in.place();
  file.path = in.required_text("path", "an absolute path");
  if (!clean_absolute_path(file.path))
    throw in.wrong("path", "an absolute path without \".\", \"..\" or a slash at its end",
                   '"' + file.path + '"');
  auto content = in.text("content"), source = in.text("source"), symlink = in.text("symlink");
  bool directory_wanted = in.flag("directory").value_or(false);
  int given = content.has_value() + source.has_value() + symlink.has_value() + directory_wanted;
  if (given != 1)
    throw base::conflict(file.place, std::format("file {}: expected exactly one of content, source, symlink "
                                                 "and directory, found {}",
                                                 file.path, given == 0 ? "none" : std::to_string(given)));
  if (content) file.content = *content;
  if (source) file.content = read_beside(in, "source", std::filesystem::path(directory) / *source);
  if (symlink) {
    file.kind = File::Kind::kSymlink;
    file.content = *symlink;
    if (symlink->empty()) throw in.wrong("symlink", "where it leads", "nothing");
  }
  if (directory_wanted) file.kind = File::Kind::kDirectory;
  file.mode = parse_mode(in, directory_wanted ? 0755 : 0644);
  parse_owner(in, file);
  return file;
}

bool valid_package(std::string_view text) {
  size_t end = text.find_first_of("=/");
  std::string_view name = text.substr(0, end);
  bool good = name.size() >= 2 && only(name, std::string(kLowerDigits) + "+.-") &&
              only(name.substr(0, 1), kLowerDigits) && !name.ends_with('-');
  return good &&
         (end == std::string_view::npos ||
          only(text.substr(end + 1), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.+-~:"));
}

void check_packages(const std::vector<base::Word>& packages) {
  for (const auto& [text, place] : packages)
    if (!valid_package(text))
      throw base::conflict(
          place,
          std::format("packages: expected a package's name, NAME=VERSION or NAME/SUITE, found \"{}\"", text));
}

}  // namespace rootfs
