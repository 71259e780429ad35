#include "image/root.h"

#include <nlohmann/json.hpp>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/text.h"
#include "image/cache.h"
#include "rootfs/strip.h"
#include "rootfs/tree.h"

namespace image {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr auto kInstallTimeout = std::chrono::minutes(60);
/// Grows when the same packages shall give another root than before.
constexpr std::string_view kRootFormat = "3";

/// A tar of a tree keeps owners, modes, times, extended attributes and devices, and unpacks at the disk's
/// speed.
std::vector<std::string> tar_options() {
  return {"--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner"};
}

std::string root_key(const rootfs::Apt& apt, const std::vector<Package>& packages, const std::string& suite) {
  std::string text(kRootFormat);
  text += " " + suite;
  for (const Package& package : packages)
    text += std::format("\n{} {} {}", package.name, package.version,
                        base::sha256_file_hex(apt.package_file(package)));
  return base::sha256_hex(text);
}

void bootstrap(base::Context& context, const rootfs::Apt& apt, const std::vector<Package>& packages,
               const std::string& suite, int64_t clock, const std::string& tree) {
  base::Phase phase(context.progress, "install packages");
  apt.seed(tree, packages, /*lists=*/true);
  std::string include;
  for (const Package& package : packages)
    include += std::format("{}{}={}", include.empty() ? "" : ",", package.name, package.version);
  // Debian's kernel package would make an initrd of its own, twice.
  std::vector<std::string> argv = {
      "env", "INITRD=No", "mmdebstrap", "--mode=root", "--format=directory", "--variant=essential",
      // Lists and packages lie there already.
      "--skip=update,download/empty,check/empty,check/qemu", "--aptopt=APT::Install-Recommends \"false\"",
      "--aptopt=Acquire::Languages \"none\"", "--dpkgopt=force-unsafe-io"};
  argv.push_back("--include=" + include);
  argv.insert(argv.end(), {suite, tree});
  argv.insert(argv.end(), apt.sources().begin(), apt.sources().end());
  base::Result result = context.runner.run_any(
      {.argv = rootfs::Tree::isolated(std::move(argv), clock), .timeout = kInstallTimeout});
  if (result.status != 0)
    throw base::error(
        "mmdebstrap cannot make the root: {}{}",
        rootfs::apt_sentence(result.err, "it ended with status " + std::to_string(result.status)),
        base::last_lines(result.err));
  // Only root can make and unpack device nodes. No image keeps them.
  rootfs::remove_matching(tree, {"/dev/*"});
}

void install_local(base::Context& context, const std::vector<std::string>& local_packages, int64_t clock,
                   const std::string& tree) {
  if (local_packages.empty()) return;
  base::Phase phase(context.progress, "install own packages", local_packages.size());
  std::vector<std::string> argv = {"dpkg", "--root=" + tree, "--force-unsafe-io", "--force-script-chrootless",
                                   "--install"};
  argv.insert(argv.end(), local_packages.begin(), local_packages.end());
  base::Result result = rootfs::Tree(tree).run(context, std::move(argv), clock, /*inside=*/false);
  if (result.status != 0)
    throw base::error(
        "the package {} cannot be installed: {}{}", local_packages.front(),
        rootfs::apt_sentence(result.err, "dpkg ended with status " + std::to_string(result.status)),
        base::last_lines(result.err))
        .hint("what it depends on has to stand in the definition's packages");
}

void append(const std::string& path, const std::string& line) {
  base::write_file(path, base::read_file_if_exists(path).value_or("") + line + "\n");
}

std::string users_line(const std::string& file, const std::string& name) {
  for (const std::string& line : base::lines_of(base::read_file_if_exists(file).value_or("")))
    if (line.starts_with(name + ":")) return line;
  return "";
}

/// The ids of these files of users and groups.
std::set<unsigned> used_ids(const std::vector<std::string>& files) {
  std::set<unsigned> used;
  for (const std::string& file : files) {
    for (const std::string& line : base::lines_of(base::read_file(file))) {
      size_t second = line.find(':', line.find(':') + 1);
      used.insert(static_cast<unsigned>(std::atoi(line.c_str() + second + 1)));
    }
  }
  return used;
}

/// Behind the last one of an ordinary user.
unsigned free_id(const std::set<unsigned>& used) {
  unsigned id = 1000;
  for (unsigned one : used)
    if (one >= id && one < 60000) id = one + 1;
  return id;
}

void join_group(const Definition::User& user, const std::string& group, const std::string& file) {
  std::string text, line = users_line(file, group);
  if (line.empty())
    throw base::error("{}: user {}: the image has no group {}", user.place, user.name, group)
        .hint("name a group that a package makes");
  std::string members = "," + line.substr(line.rfind(':') + 1) + ",";
  if (members.contains("," + user.name + ",")) return;
  for (const std::string& old : base::lines_of(base::read_file(file)))
    text += old + (old != line ? "" : (old.ends_with(':') ? "" : ",") + user.name) + "\n";
  base::write_file(file, text);
}

/// A user without a password: an SSH key is the only way in. The home directory is made at each boot, as
/// /home is a part of the read-only root.
void place_user(const Definition::User& user, const std::string& tree) {
  std::string passwd = tree + "/etc/passwd", shadow = tree + "/etc/shadow", group = tree + "/etc/group";
  if (users_line(passwd, user.name).empty()) {
    if (!users_line(group, user.name).empty())
      throw base::error("{}: user {}: the image has a group {}, and no such user", user.place, user.name,
                        user.name)
          .hint("choose another name: a user has a group of the same name");
    std::set<unsigned> used = used_ids({passwd, group});
    unsigned id = user.uid.value_or(free_id(used));
    if (used.contains(id))
      throw base::error("{}: user {}: the image has the id {} already", user.place, user.name, id)
          .hint("choose another uid, or leave it out");
    append(passwd, std::format("{0}:x:{1}:{1}::/home/{0}:{2}", user.name, id, user.shell));
    append(group, std::format("{}:x:{}:", user.name, id));
    append(shadow, std::format("{}:*:::::::", user.name));
    append(tree + "/usr/lib/tmpfiles.d/drover-users.conf",
           std::format("d /home/{0} 0700 {0} {0}", user.name));
  }
  for (const std::string& name : user.groups) join_group(user, name, group);
  if (user.ssh_keys.empty()) return;
  std::string keys;
  for (const std::string& key : user.ssh_keys) keys += key + "\n";
  base::make_directories(tree + "/etc/ssh/authorized_keys.d");
  base::write_file(tree + "/etc/ssh/authorized_keys.d/" + user.name, keys);
}

}  // namespace

void install_root(base::Context& context, const rootfs::Apt& apt, const std::vector<Package>& packages,
                  const std::vector<std::string>& local_packages, const std::string& suite, int64_t clock,
                  const std::string& cache_dir, const std::string& tree) {
  std::string cached = cache_dir + "/image/roots/" + root_key(apt, packages, suite) + ".tar";
  if (base::exists(cached)) {
    base::Phase phase(context.progress, "unpack packages");
    std::vector<std::string> argv = {"tar", "--extract", "--file=" + cached, "--directory=" + tree};
    for (const std::string& option : tar_options()) argv.push_back(option);
    context.runner.run({.argv = argv, .timeout = kInstallTimeout});
  } else {
    bootstrap(context, apt, packages, suite, clock, tree);
    base::Phase phase(context.progress, "keep for the next build");
    make_cached(cached, [&](const std::string& half) {
      std::vector<std::string> argv = {"tar", "--create", "--file=" + half, "--directory=" + tree};
      for (const std::string& option : tar_options()) argv.push_back(option);
      argv.emplace_back(".");
      context.runner.run({.argv = argv, .timeout = kInstallTimeout});
    });
  }
  install_local(context, local_packages, clock, tree);
}

Installed installed_in(const std::string& tree) {
  std::string dpkg = tree + "/var/lib/dpkg";
  Installed installed = {.packages = rootfs::installed_packages(dpkg + "/status"), .owner = {}};
  for (const auto& entry : fs::directory_iterator(dpkg + "/info")) {
    if (entry.path().extension() != ".list") continue;
    std::string name = entry.path().stem();
    name = name.substr(0, name.find(':'));
    for (const std::string& file : base::lines_of(base::read_file(entry.path())))
      installed.owner[file] = name;
  }
  return installed;
}

void place_definition(const Definition& definition, const std::string& version, const std::string& tree) {
  rootfs::Tree root(tree);
  for (const Definition::User& user : definition.users) place_user(user, tree);
  base::make_directories(tree + "/etc/drover");
  json health = json::array();
  for (const Definition::Health& check : definition.health)
    health.push_back({{"name", check.name}, {"command", check.command}, {"seconds", check.seconds}});
  base::write_file(tree + "/etc/drover/health.json", health.dump(1) + "\n");
  json image = {{"name", definition.name}, {"version", version}};
  base::write_file(tree + "/etc/drover/image.json", image.dump(1) + "\n");
  // systemd asks for one at the first boot, and never for a file that is there.
  base::write_file(tree + "/etc/machine-id", "");
  base::write_file(tree + "/etc/fstab", "");
  for (const rootfs::File& file : definition.files) root.place(file);
}

std::string kernel_version_of(const std::string& tree) {
  std::vector<std::string> versions;
  std::error_code missing;
  for (const auto& entry : fs::directory_iterator(tree + "/usr/lib/modules", missing))
    if (base::exists(tree + "/boot/vmlinuz-" + entry.path().filename().string()))
      versions.push_back(entry.path().filename());
  if (versions.size() != 1)
    throw base::error("expected one kernel among the packages of the image, found {}", versions.size())
        .hint("[kernel] package names it, such as linux-image-cloud-amd64");
  return versions[0];
}

}  // namespace image
