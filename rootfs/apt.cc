#include "rootfs/apt.h"

#include <fcntl.h>
#include <sys/file.h>

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"
#include "rootfs/package_lists.h"

namespace rootfs {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kDebianKeys = "/usr/share/keyrings/debian-archive-keyring.gpg";
constexpr auto kNetworkTimeout = std::chrono::minutes(20);

/// "http://mirror/debian/" and "trixie-updates" of "'http://mirror/debian/dists/trixie-updates/InRelease' …".
struct Release {
  std::string url, suite;
};

std::vector<Release> releases(const std::string& print_uris) {
  std::vector<Release> found;
  for (const std::string& line : base::lines_of(print_uris)) {
    size_t dists = line.find("/dists/"), end = line.find("/InRelease'");
    if (!line.starts_with('\'') || dists == std::string::npos || end == std::string::npos || end < dists + 7)
      continue;
    found.push_back({.url = line.substr(1, dists), .suite = line.substr(dists + 7, end - dists - 7)});
  }
  return found;
}

/// As apt names a package's file in its cache (QuoteString in apt-pkg/contrib/strutl.cc).
std::string quoted_for_file(const std::string& text) {
  std::string quoted;
  for (char c : text)
    if (c == '_' || c == ':' || c == '%' || c <= 0x20)
      quoted += std::format("%{:02x}", static_cast<unsigned>(c));
    else
      quoted += c;
  return quoted;
}

/// "Inst libc6 [2.41-12] (2.41-13 Debian:13.7/stable [amd64])": what -s says of one package.
std::optional<Package> simulated(const std::string& line) {
  size_t open = line.find(" ("), space = line.find(' ', open + 2), arch = line.find(" [", open + 2);
  size_t close = line.find("])", arch);
  if (!line.starts_with("Inst ") || open == std::string::npos || close == std::string::npos)
    return std::nullopt;
  std::string name = line.substr(5, line.find_first_of(" :", 5) - 5);
  return Package{.name = name,
                 .version = line.substr(open + 2, space - open - 2),
                 .architecture = line.substr(arch + 2, close - arch - 2)};
}

}  // namespace

std::string apt_sentence(const std::string& output, const std::string& otherwise) {
  std::string sentence;
  for (const std::string& line : base::lines_of(output)) {
    // That is the cause, whatever else it led to.
    if (line.contains("No space left on device")) sentence = line;
    for (std::string_view mark : {"E: ", "dpkg: error: ", "dpkg: error "})
      if (sentence.empty() && line.starts_with(mark)) sentence = line.substr(mark.size());
  }
  sentence.erase(sentence.find_last_not_of(" :") + 1);
  return sentence.empty() ? otherwise : sentence;
}

std::vector<base::Word> variant_packages(const std::string& variant) {
  if (variant == "essential") return {{.text = "?essential"}};
  if (variant == "apt") return {{.text = "?essential"}, {.text = "apt"}};
  if (variant == "required") return {{.text = "?or(?essential,?priority(required))"}, {.text = "apt"}};
  if (variant == "important")
    return {{.text = "?or(?essential,?priority(required),?priority(important))"}, {.text = "apt"}};
  return {};
}

std::vector<Package> installed_packages(const std::string& status) {
  std::vector<Package> packages;
  Package package;
  bool installed = false;
  auto flush = [&] {
    if (package.source.empty()) package.source = package.name;
    if (installed && !package.name.empty()) packages.push_back(package);
    package = {};
    installed = false;
  };
  for (const std::string& line : base::lines_of(base::read_file_if_exists(status).value_or(""))) {
    if (line.empty()) flush();
    if (line.starts_with("Package: ")) package.name = line.substr(9);
    if (line.starts_with("Version: ")) package.version = line.substr(9);
    if (line.starts_with("Architecture: ")) package.architecture = line.substr(14);
    // "Source: util-linux (2.41-5)": with a version where that is another one.
    if (line.starts_with("Source: ")) package.source = line.substr(8, line.find(' ', 8) - 8);
    if (line == "Status: install ok installed" || line == "Status: hold ok installed") installed = true;
  }
  flush();
  std::ranges::sort(packages, {}, [](const Package& p) { return std::tie(p.name, p.architecture); });
  return packages;
}

Apt::Apt(base::Context& context, Origin origin, const std::string& cache_dir)
    : context_(context), origin_(std::move(origin)), packages_(cache_dir + "/packages") {
  sources_ = find_sources();
  std::string text;
  for (const std::string& line : sources_) text += line + "\n";
  directory_ = cache_dir + "/apt/" + base::sha256_hex(text).substr(0, 16);
  for (const char* name : {"/lists/partial", "/etc/sources.list.d", "/etc/preferences.d"})
    base::make_directories(directory_ + name);
  base::make_directories(packages_ + "/partial");
  lock_ = base::open(cache_dir + "/lock", O_RDWR | O_CREAT, 0600);
  while (::flock(lock_.get(), LOCK_EX) != 0) {
    if (errno != EINTR) throw base::sys_error("cannot lock {}/lock", cache_dir);
    base::check_interrupt();
  }
  base::write_file(directory_ + "/etc/sources.list", text);
  base::write_file(directory_ + "/etc/preferences.d/drover", preferences());
  base::write_file(directory_ + "/nothing-installed", "");
}

std::vector<std::string> Apt::find_sources() const {
  const Mirror& mirror = origin_.mirror;
  std::string keyring = mirror.keyring.empty() ? std::string(kDebianKeys) : mirror.keyring;
  if (!base::exists(keyring))
    throw base::error("the keys of the package mirror are missing: no file {}", keyring)
        .hint("install debian-archive-keyring");
  std::string components;
  for (const std::string& component : mirror.components) components += " " + component;
  auto line = [&](const std::string& url, const std::string& suite, const std::string& more = "") {
    return std::format("deb [signed-by={}{}] {} {}{}", keyring, more, url, suite, components);
  };
  std::vector<std::string> lines;
  std::string main = mirror.url;
  if (!main.empty()) {
    lines.push_back(line(main, origin_.suite));
  } else {
    std::vector<Release> host =
        releases(context_.runner.run({.argv = {"apt-get", "update", "--print-uris"}}).out);
    for (const Release& release : host) {
      if (release.url.ends_with("/debian/") && main.empty()) main = release.url;
      if (release.suite == origin_.suite || release.suite == origin_.suite + "-updates" ||
          release.suite == origin_.suite + "-security")
        lines.push_back(line(release.url, release.suite));
    }
    // A host of another release: its mirror has ours too.
    if (lines.empty() && !main.empty()) lines.push_back(line(main, origin_.suite));
  }
  if (lines.empty())
    throw base::error("this machine's apt sources name no mirror of Debian {}", origin_.suite)
        .hint("add one to /etc/apt/sources.list, or name one in the definition: [mirror] url = \"…\"");
  // A snapshot of an unstable suite can be past its date.
  if (!main.empty())
    for (const auto& [suite, packages] : origin_.more_suites)
      lines.push_back(line(main, suite, " check-valid-until=no"));
  return lines;
}

std::string Apt::preferences() const {
  std::string text;
  for (const auto& [suite, packages] : origin_.more_suites) {
    std::string names;
    for (const std::string& name : packages) names += (names.empty() ? "" : " ") + name;
    text += std::format(
        "Package: *\nPin: release n={0}\nPin-Priority: 1\n\nPackage: {1}\nPin: release n={0}\n"
        "Pin-Priority: 990\n\n",
        suite, names);
  }
  return text;
}

std::vector<std::string> Apt::directories(const std::string& status) const {
  return {"-o", "Dir::State=" + directory_,
          "-o", "Dir::State::lists=" + narrowed(),
          "-o", "Dir::State::status=" + (status.empty() ? directory_ + "/nothing-installed" : status),
          "-o", "Dir::Etc=" + directory_ + "/etc",
          "-o", "Dir::Cache=" + directory_,
          "-o", "Dir::Cache::archives=" + packages_};
}

std::vector<std::string> Apt::command(const std::string& status, const std::vector<std::string>& more) const {
  std::vector<std::string> argv = {"apt-get", "--yes"};
  for (std::string& word : directories(status)) argv.push_back(std::move(word));
  for (const char* option :
       {"Acquire::Languages=none", "Acquire::GzipIndexes=false", "Acquire::Retries=2",
        "Acquire::http::Timeout=20", "Acquire::https::Timeout=20", "APT::Update::Error-Mode=any",
        "APT::Install-Recommends=false", "APT::Sandbox::User=root", "APT::Keep-Downloaded-Packages=true"})
    argv.insert(argv.end(), {"-o", option});
  argv.insert(argv.end(), more.begin(), more.end());
  return argv;
}

void Apt::update() {
  auto is_list = [](const auto& entry) { return entry.path().string().ends_with("_Packages"); };
  if (!origin_.offline)
    fetch_lists();
  else if (std::ranges::none_of(fs::directory_iterator(fetched()), is_list))
    throw base::error("there are no package lists of Debian {} here yet", origin_.suite)
        .hint("build once without --offline");
}

void Apt::fetch_lists() {
  base::Phase phase(context_.progress, "package lists");
  base::Result result = context_.runner.run_any(
      {.argv = command("", {"-o", "Dir::State::lists=" + fetched(), "update"}), .timeout = kNetworkTimeout});
  if (result.status != 0)
    throw base::error("the package lists of Debian {} cannot be fetched: {}", origin_.suite,
                      apt_sentence(result.err, "apt-get update failed"))
        .hint(
            "check the mirror in this machine's apt sources (`apt-get update`); --offline uses the lists "
            "that "
            "were fetched last");
}

base::Error Apt::failure(const base::Result& result, const std::vector<base::Word>& wanted) const {
  std::string sentence = apt_sentence(result.err, "apt-get failed");
  // Broken dependencies stand on stdout, indented; the first is the one that the others follow from.
  std::vector<std::string> lines = base::lines_of(result.out);
  auto broken = std::ranges::find_if(
      lines, [](const std::string& line) { return line.starts_with(' ') && line.contains(" : "); });
  if (broken != lines.end()) sentence = broken->substr(1);
  for (const auto& [text, place] : wanted) {
    std::string name = text.substr(0, text.find('='));
    std::set<std::string> words;
    std::istringstream in(sentence);
    for (std::string word; in >> word;) {
      std::erase_if(word, [](char c) { return c == '\'' || c == '"' || c == ','; });
      words.insert(word);
    }
    if (place.empty() || !words.contains(name)) continue;
    if (!sentence.starts_with("Unable to locate package"))
      return base::conflict(place, "packages: " + sentence);
    std::vector<std::string> argv = {"apt-cache", "pkgnames"};
    for (std::string& word : directories("")) argv.push_back(std::move(word));
    argv.insert(argv.end(), {"-o", "Dir::State::lists=" + fetched()});
    base::Result names = context_.runner.run_any({.argv = argv});
    std::string close = base::closest(name, base::lines_of(names.out));
    return base::error("{}: packages: Debian {} has no package {}", place, origin_.suite, name)
        .hint(name.starts_with("drover")
                  ? "it is a package of drover's own: --packages DIR says where it lies"
              : close.empty() ? "`apt-cache search WORD` finds packages"
                              : std::format("did you mean {}?", close));
  }
  return base::error("the packages of {} cannot be installed: {}", origin_.name, sentence);
}

/// What a package that is a file depends on.
std::string Apt::needs_of_file(const std::string& file) const {
  auto field = [&](const char* name) {
    return context_.runner.run({.argv = {"dpkg-deb", "--field", file, name}}).out;
  };
  return field("Depends") + "," + field("Pre-Depends");
}

std::vector<Package> Apt::resolve(const std::vector<base::Word>& wanted, const std::string& status) const {
  if (wanted.empty()) return {};
  std::vector<std::string> needed;
  for (const std::string& text : base::texts_of(wanted))
    needed.push_back(text.starts_with('/') ? needs_of_file(text) : text);
  narrow_lists(fetched(), narrowed(), origin_.more_suites, needed);
  std::vector<std::string> more = {"--simulate", "install"};
  for (const std::string& text : base::texts_of(wanted)) more.push_back(text);
  base::Result result = context_.runner.run_any({.argv = command(status, more), .env = {{"LC_ALL", "C"}}});
  if (result.status != 0) throw failure(result, wanted);
  std::vector<Package> packages;
  for (const std::string& line : base::lines_of(result.out)) {
    if (line.starts_with("Remv "))
      throw base::error("the packages of {} would remove {} of its base", origin_.name,
                        line.substr(5, line.find(' ', 5) - 5));
    if (auto package = simulated(line)) packages.push_back(*package);
  }
  std::ranges::sort(packages, {}, &Package::name);
  return packages;
}

std::string Apt::package_file(const Package& package) const {
  return std::format("{}/{}_{}_{}.deb", packages_, quoted_for_file(package.name),
                     quoted_for_file(package.version), package.architecture);
}

base::Error Apt::not_fetched(const std::string& sentence) const {
  base::Error error = base::error("the packages of {} cannot be fetched: {}", origin_.name, sentence);
  if (sentence.starts_with("Version '"))
    return std::move(error).hint("the mirror has another one by now, as the newest that --update-lock takes");
  return std::move(error).hint("check the mirror in this machine's apt sources, and the free space in " +
                               packages_);
}

void Apt::download(const std::vector<Package>& packages, const std::string& status) const {
  base::Phase phase(context_.progress, "packages", packages.size());
  auto missing = std::ranges::find_if(
      packages, [&](const Package& package) { return !base::exists(package_file(package)); });
  if (missing == packages.end()) return;
  if (origin_.offline)
    throw base::error("the packages of {} are not all in the cache: {} {} is not", origin_.name,
                      missing->name, missing->version)
        .hint("build once without --offline");
  std::vector<std::string> more = {"--download-only", "install"}, names;
  for (const Package& package : packages) {
    names.push_back(package.name);
    more.push_back(package.name + "=" + package.version);
  }
  narrow_lists(fetched(), narrowed(), origin_.more_suites, names);
  base::Result result = context_.runner.run_any({.argv = command(status, more), .timeout = kNetworkTimeout});
  if (result.status != 0) throw not_fetched(apt_sentence(result.err, "apt-get failed"));
  phase.at(packages.size());
}

void Apt::seed(const std::string& root, const std::vector<Package>& packages, bool lists) const {
  std::string archives = root + "/var/cache/apt/archives";
  base::make_directories(archives + "/partial");
  for (const Package& package : packages) {
    std::string file = package_file(package);
    fs::copy_file(file, archives + "/" + fs::path(file).filename().string(),
                  fs::copy_options::overwrite_existing);
  }
  if (!origin_.more_suites.empty()) {
    base::make_directories(root + "/etc/apt/preferences.d");
    base::write_file(root + "/etc/apt/preferences.d/drover", preferences());
  }
  if (!lists) return;
  std::string target = root + "/var/lib/apt/lists";
  std::vector<Package> missing = copy_entries(fetched(), target, packages);
  if (missing.empty()) return;
  // Versions of a lock that the mirror's lists have no more: their files tell what they are.
  std::string entries;
  for (const Package& package : missing) {
    std::string file = package_file(package);
    entries += context_.runner.run({.argv = {"dpkg-deb", "--field", file}}).out;
    entries += std::format("Filename: {}\nSize: {}\nSHA256: {}\n\n", fs::path(file).filename().string(),
                           fs::file_size(file), base::sha256_file_hex(file));
  }
  for (const auto& entry : fs::directory_iterator(target)) {
    std::string list = entry.path();
    if (!list.ends_with("_Packages")) continue;
    base::write_file(list, base::read_file(list) + entries);
    return;
  }
}

int64_t Apt::youngest(const std::vector<Package>& packages) const {
  // deb(5): an ar archive, whose first member's header has its time at 8 + 16, 12 digits.
  int64_t youngest = 0;
  for (const Package& package : packages) {
    base::Fd fd = base::open(package_file(package), O_RDONLY);
    std::array<char, 36> head = {};
    base::read_full(fd.get(), std::as_writable_bytes(std::span(head)));
    if (!std::string_view(head.data(), 8).starts_with("!<arch>"))
      throw base::error("{} is not a Debian package", package_file(package))
          .hint("remove it, it will be fetched again");
    youngest = std::max<int64_t>(youngest, std::atoll(std::string(head.data() + 24, 12).c_str()));
  }
  return youngest;
}

}  // namespace rootfs
