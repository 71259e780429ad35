#include "templates/build.h"

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <sys/file.h>
#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/hash.h"
#include "base/text.h"
#include "rootfs/apt.h"
#include "rootfs/erofs.h"
#include "rootfs/space.h"
#include "rootfs/strip.h"
#include "rootfs/tree.h"
#include "rootfs/workspace.h"
#include "templates/pack.h"

namespace templates {
namespace {

using nlohmann::json;

/// Grows when the same definition and packages shall give other layers than before.
constexpr int kBuildFormat = 1;
constexpr auto kBootstrapTimeout = std::chrono::minutes(60);

json file_json(const Definition::File& file) {
  return {{"path", file.path},
          {"kind", static_cast<int>(file.kind)},
          {"content", base::sha256_hex(file.content)},
          {"mode", file.mode},
          {"owner", file.owner},
          {"group", file.group},
          {"early", file.early}};
}

/// One build, from the plan to the commit. Lives in a private mount namespace.
class Build {
 public:
  Build(base::Context& context, Store& store, const Definition& definition, const BuildOptions& options)
      : context_(context),
        store_(store),
        definition_(definition),
        options_(options),
        base_(find_base()),
        suite_(base_ ? base_->distribution : definition.distribution->suite),
        hold_(store.hold()),
        workspace_(context, store.scratch_dir(), options.on_disk),
        lower_(workspace_.directory("lower")),
        apt_(context,
             {.name = definition.name,
              .suite = suite_,
              .mirror = definition.mirror,
              .offline = options.offline},
             options.cache_dir) {}

  BuildResult run() {
    mount_base();
    apt_.update();
    plan();
    newest_ = store_.find(definition_.name);
    if (newest_ && newest_->fingerprint == fingerprint_ && has_layers(*newest_) && !options_.rebuild)
      return {.manifest = *newest_, .unchanged = true};
    base::check_interrupt();
    apt_.download(packages_, status_file());
    clock_ = std::max(apt_.youngest(packages_), base_ ? base_->clock : 0);
    check_clock();
    if (base_)
      install_on_base();
    else
      bootstrap();
    base::check_interrupt();
    finish_tree();
    base::check_interrupt();
    return commit();
  }

 private:
  std::optional<Manifest> find_base() const {
    const auto& [reference, place] = definition_.base;
    if (reference.empty()) return std::nullopt;
    auto base = store_.find(reference);
    if (!base)
      throw base::error("{}: base: there is no template {} here", place, reference)
          .hint(
              "build it first with `drover template build FILE.toml`; `drover template list` shows what is "
              "here");
    for (const Layer& layer : base->layers)
      if (!store_.has_layer(layer))
        throw base::error("layer {} of {} is missing", layer.digest, base->reference())
            .hint("build or copy " + base->name + " again");
    if (base->name == definition_.name)
      throw base::error("{}: base: {} cannot stand on itself", place, base->name);
    return base;
  }

  bool has_layers(const Manifest& manifest) const {
    return std::ranges::all_of(manifest.layers, [&](const Layer& layer) { return store_.has_layer(layer); });
  }

  /// The base's root as one read-only directory: lower_.
  void mount_base() {
    if (!base_) return;
    std::vector<std::string> layers;
    for (size_t i = 0; i < base_->layers.size(); ++i) {
      layers.push_back(workspace_.directory("layer" + std::to_string(i)));
      mounts_.push(rootfs::mount_layer(store_.layer_path(base_->layers[i].digest), layers.back()));
    }
    if (layers.size() == 1)
      lower_ = layers[0];
    else
      mounts_.push(rootfs::mount_overlay(layers, "", "", lower_));
    if (!definition_.packages.empty() && !base::exists(status_file()))
      throw base::error("{}: packages: {} has no dpkg, so nothing can be installed on it",
                        definition_.packages[0].place, base_->name)
          .hint("choose another base");
  }

  /// What dpkg of the base has installed; empty for an OS template.
  std::string status_file() const { return base_ ? lower_ + "/var/lib/dpkg/status" : ""; }

  std::vector<Definition::Word> wanted() const {
    std::vector<Definition::Word> wanted;
    if (definition_.distribution) wanted = rootfs::variant_packages(definition_.distribution->variant);
    wanted.insert(wanted.end(), definition_.packages.begin(), definition_.packages.end());
    return wanted;
  }

  /// Which packages it takes, and from that what the result is known by.
  void plan() {
    base::Phase phase(context_.progress, "plan");
    packages_ = apt_.resolve(wanted(), status_file());
    json packages = json::array(), files = json::array(), layers = json::array();
    for (const Package& package : packages_)
      packages.push_back({package.name, package.version, package.architecture});
    for (const Definition::File& file : definition_.files) files.push_back(file_json(file));
    if (base_)
      for (const Layer& layer : base_->layers) layers.push_back(layer.digest);
    json tree = {{"format", kBuildFormat},
                 {"name", definition_.name},
                 {"suite", suite_},
                 {"variant", definition_.distribution ? definition_.distribution->variant : ""},
                 {"base", layers},
                 {"packages", packages},
                 {"files", files},
                 {"commands", base::texts_of(definition_.commands)},
                 {"strip",
                  {definition_.strip.documentation, definition_.strip.locales, definition_.strip.caches,
                   definition_.strip.paths}}};
    seed_ = base::sha256_hex(tree.dump());
    json all = {{"tree", seed_}, {"manifest", draft().render()}};
    fingerprint_ = "sha256:" + base::sha256_hex(all.dump());
  }

  /// The manifest as far as it is known before the build.
  Manifest draft() const {
    Manifest manifest;
    if (base_) manifest.start = base_->start;
    manifest.name = definition_.name;
    manifest.base = base_ ? base_->reference() : "";
    manifest.description = definition_.description;
    manifest.distribution = suite_;
    const Definition::Box& box = definition_.box;
    Start& start = manifest.start;
    if (box.init) start.init = *box.init;
    for (const auto& [name, value] : box.env) start.env[name] = value;
    if (box.working_dir) start.working_dir = *box.working_dir;
    if (box.stop_signal) start.stop_signal = *box.stop_signal;
    if (box.stop_seconds) start.stop_seconds = *box.stop_seconds;
    if (box.control_groups) start.control_groups = *box.control_groups;
    return manifest;
  }

  /// Times later than the clock are set to it; so what the build writes must be later.
  void check_clock() const {
    auto now = std::chrono::system_clock::to_time_t(context_.clock.wall());
    if (now <= clock_)
      throw base::error("this machine's clock is behind: it is earlier than its youngest package")
          .hint("set the clock");
  }

  void place(bool early) const {
    for (const Definition::File& file : definition_.files)
      if (file.early == early) rootfs::Tree(tree_).place(file);
  }

  std::vector<std::string> dpkg_options() const {
    std::vector<std::string> options = rootfs::dpkg_excludes(definition_.strip);
    // What the definition has placed is meant to stay.
    options.insert(options.end(), {"force-confdef", "force-confold", "force-unsafe-io"});
    return options;
  }

  void bootstrap() {
    base::Phase phase(context_.progress, "bootstrap");
    const Definition::Distribution& distribution = *definition_.distribution;
    tree_ = content_ = workspace_.directory("tree");
    apt_.seed(tree_, packages_, /*lists=*/true);
    place(/*early=*/true);
    std::vector<std::string> argv = {
        "mmdebstrap", "--mode=root", "--format=directory", "--variant=" + distribution.variant,
        // Lists and packages lie there already.
        "--skip=update,download/empty,check/empty,check/qemu", "--aptopt=APT::Install-Recommends \"false\"",
        "--aptopt=Acquire::Languages \"none\""};
    for (const std::string& option : dpkg_options()) argv.push_back("--dpkgopt=" + option);
    std::string include;
    for (const Definition::Word& word : definition_.packages)
      include += (include.empty() ? "" : ",") + word.text;
    if (!include.empty()) argv.push_back("--include=" + include);
    argv.insert(argv.end(), {suite_, tree_});
    argv.insert(argv.end(), apt_.sources().begin(), apt_.sources().end());
    base::Result result = context_.runner.run_any(
        {.argv = rootfs::Tree::isolated(std::move(argv), clock_), .timeout = kBootstrapTimeout});
    if (result.status != 0)
      throw base::error(
          "mmdebstrap cannot make {}: {}{}", definition_.name,
          rootfs::apt_sentence(result.err, "it ended with status " + std::to_string(result.status)),
          base::last_lines(result.err));
    rootfs::remove_builders_traces(tree_);
    // `extract` unpacks only: nothing is installed as dpkg sees it.
    if (distribution.variant == "extract") base::remove_tree(tree_ + "/var/lib/dpkg");
  }

  void install_on_base() {
    base::Phase phase(context_.progress, "install");
    content_ = workspace_.directory("upper");
    tree_ = workspace_.directory("merged");
    mounts_.push(rootfs::mount_overlay({lower_}, content_, workspace_.directory("work"), tree_));
    place(/*early=*/true);
    if (packages_.empty()) return;
    apt_.seed(tree_, packages_, /*lists=*/false);
    // Services are started by a box, not by its template.
    std::string policy = tree_ + "/usr/sbin/policy-rc.d";
    base::write_file(policy, "#!/bin/sh\nexit 101\n");
    std::filesystem::permissions(policy, std::filesystem::perms(0755));
    std::vector<std::string> more = {"install"};
    for (const std::string& option :
         {"Dir::Cache::archives=" + tree_ + "/var/cache/apt/archives", "DPkg::Chroot-Directory=" + tree_,
          "Dir::State::extended_states=" + tree_ + "/var/lib/apt/extended_states",
          "Dir::Log=" + tree_ + "/var/log/apt", std::string("DPkg::Use-Pty=false"),
          // Otherwise apt hands dpkg links in a temporary directory, which it cannot see from in there.
          std::string("DPkg::Install::Recursive=false")})
      more.insert(more.end(), {"-o", option});
    for (const std::string& option : dpkg_options())
      more.insert(more.end(), {"-o", "DPkg::Options::=--" + option});
    for (const std::string& text : base::texts_of(definition_.packages)) more.push_back(text);
    std::vector<std::string> argv = apt_.command(tree_ + "/var/lib/dpkg/status", more);
    base::Result result = rootfs::Tree(tree_).run(context_, std::move(argv), clock_, /*inside=*/false);
    if (result.status != 0) throw install_error(result);
    base::remove_tree(policy);
  }

  void finish_tree() {
    {
      base::Phase phase(context_.progress, "files and commands", definition_.commands.size());
      place(/*early=*/false);
      rootfs::Tree tree(tree_);
      for (const Definition::Word& command : definition_.commands) run_command(tree, command);
    }
    base::Phase phase(context_.progress, "strip");
    std::vector<Package> installed = rootfs::installed_packages(tree_ + "/var/lib/dpkg/status");
    for (Package& package : installed) package.source.clear();  // a template's manifest does not tell it
    if (!installed.empty()) packages_ = installed;
    if (base_ && installed.empty()) packages_ = base_->packages;
    rootfs::strip_tree(tree_, definition_.strip);
    if (base_) {
      mounts_.pop();
      reduce_upper(content_, lower_);
    }
    size_ = rootfs::settle(content_, clock_);
  }

  void run_command(const rootfs::Tree& tree, const Definition::Word& command) {
    base::Result result = tree.run(context_, {"/bin/sh", "-e", "-c", command.text}, clock_, /*inside=*/true);
    if (result.status == 0) return;
    throw base::error("{}: commands: `{}` ended with status {}{}", command.place,
                      base::first_line(command.text), result.status,
                      base::last_lines(result.err.empty() ? result.out : result.err))
        .hint("commands run in the template with sh -e, without a network");
  }

  base::Error install_error(const base::Result& result) const {
    // What comes behind the first failing package only follows from it.
    size_t failing = result.err.find("dpkg: error processing ");
    size_t end =
        failing == std::string::npos ? failing : result.err.find('\n', result.err.find('\n', failing) + 1);
    std::string until = result.err.substr(0, end);
    return base::error(
        "the packages of {} cannot be installed: {}{}", definition_.name,
        rootfs::apt_sentence(until, "apt-get ended with status " + std::to_string(result.status)),
        base::last_lines(until));
  }

  BuildResult commit() {
    std::string scratch = store_.scratch_dir();
    base::make_directories(scratch);
    base::TempDir directory = base::TempDir::make(scratch, "layer-");
    std::string file = directory.path() + "/layer.erofs";
    Layer layer = pack(context_, content_, clock_, seed_, size_.most_packed, file);
    Manifest manifest = draft();
    manifest.fingerprint = fingerprint_;
    manifest.clock = clock_;
    manifest.architecture = architecture();
    if (base_) manifest.layers = base_->layers;
    manifest.layers.push_back(layer);
    manifest.packages = packages_;
    manifest.tree_bytes = size_.bytes;
    if (newest_ && manifest.same_content(*newest_) && has_layers(*newest_))
      return {.manifest = *newest_, .unchanged = true};
    if (newest_ && newest_->fingerprint == fingerprint_ && newest_->layers != manifest.layers)
      context_.progress.note(
          std::format("warning: {} was built from the same definition and packages, but its "
                      "layer has other bytes",
                      newest_->reference()));
    manifest.version = next_version();
    std::string text = manifest.render();
    Manifest::parse(text);  // nobody shall get what cannot be read back
    store_.adopt_layer(file, layer, hold_);
    store_.add_version(manifest, text, store_.keys().sign(text, "drover template " + manifest.reference()),
                       hold_);
    return {.manifest = manifest};
  }

  std::string architecture() const {
    std::string name = context_.runner.run({.argv = {"dpkg", "--print-architecture"}}).out;
    while (name.ends_with('\n')) name.pop_back();
    return name;
  }

  /// Today's first, or one more than the newest.
  std::string next_version() const {
    auto today = std::format("{:%Y%m%d}01", std::chrono::floor<std::chrono::days>(context_.clock.wall()));
    uint64_t next = std::stoull(today);
    if (newest_) next = std::max<uint64_t>(next, std::stoull(newest_->version) + 1);
    return std::to_string(next);
  }

  base::Context& context_;
  Store& store_;
  const Definition& definition_;
  const BuildOptions& options_;
  std::optional<Manifest> base_, newest_;
  std::string suite_;
  Store::Hold hold_;
  rootfs::Workspace workspace_;
  std::string lower_;
  rootfs::Apt apt_;
  rootfs::Mounts mounts_;
  std::vector<Package> packages_;
  std::string seed_, fingerprint_;
  int64_t clock_ = 0;
  std::string tree_;     ///< the template's whole root
  std::string content_;  ///< what of it goes into the layer
  rootfs::TreeSize size_;
};

}  // namespace

BuildResult build(base::Context& context, Store& store, const Definition& definition,
                  const BuildOptions& options) {
  if (::geteuid() != 0 && !definition.base.text.empty())
    throw base::error("{}: base: {} stands on another template, and only root can mount that one's layers",
                      definition.base.place, definition.name)
        .hint("sudo drover template build …");
  BuildResult result;
  rootfs::in_private_mounts(context, [&] {
    try {
      result = Build(context, store, definition, options).run();
    } catch (base::Error& error) {
      error.context("building " + definition.name);
      throw rootfs::explained(error, definition.name,
                              {{options.cache_dir, "free some, or name another place with --cache-dir"},
                               {store.state_dir(), "`drover template gc --keep 1` frees what no box uses"}});
    }
  });
  return result;
}

}  // namespace templates
