#include "image/build.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/text.h"
#include "image/closure.h"
#include "image/contents.h"
#include "image/disk.h"
#include "image/guestfs.h"
#include "image/hardware.h"
#include "image/initrd.h"
#include "image/loader.h"
#include "image/lock.h"
#include "image/modules.h"
#include "image/root.h"
#include "image/sbom.h"
#include "image/strip.h"
#include "image/verity.h"
#include "rootfs/apt.h"
#include "rootfs/erofs.h"
#include "rootfs/workspace.h"

namespace image {
namespace {

namespace fs = std::filesystem;

/// Grows when the same definition and packages shall give another image than before.
constexpr std::string_view kBuildFormat = "3";
constexpr std::string_view kInit = "/usr/lib/drover/drover-init";
/// What of the builder's decides bytes of an image.
const std::vector<std::string> kTools = {"erofs-utils", "mtools",      "e2fsprogs",   "xfsprogs",
                                         "libfdisk1",   "grub-common", "grub-pc-bin", "grub-efi-amd64-bin",
                                         "ipxe",        "xz-utils"};
constexpr uint64_t kMiB = 1 << 20;
constexpr size_t kGapsShown = 12;

/// One build, from the plan to the commit. Lives in a private mount namespace.
class Build {
 public:
  Build(base::Context& context, const Definition& definition, const BuildOptions& options)
      : context_(context),
        definition_(definition),
        options_(options),
        keys_(definition.keys.empty() ? options.keys_dir : definition.keys),
        apt_(context, origin(definition), options.cache_dir) {}

  BuildResult run() {
    plan();
    if (auto there = unchanged()) return {.manifest = *there, .unchanged = true};
    base::check_interrupt();
    apt_.download(packages_, "");
    base::make_directories(cache("scratch"));
    rootfs::Workspace workspace(context_, cache("scratch"), false);
    make_directory();
    make_root(workspace);
    base::check_interrupt();
    make_boot_parts();
    make_disk();
    return commit();
  }

 private:
  static rootfs::Origin origin(const Definition& definition) {
    rootfs::Origin origin = {.file = definition.file,
                             .name = definition.name,
                             .suite = definition.suite,
                             .mirror = definition.mirror};
    for (const base::Word& word : definition.packages) {
      size_t slash = word.text.find('/');
      if (slash == std::string::npos) continue;
      std::string suite = word.text.substr(slash + 1);
      if (suite != definition.suite) origin.more_suites[suite].push_back(word.text.substr(0, slash));
    }
    return origin;
  }

  [[nodiscard]] std::string cache(const std::string& name) const {
    return options_.cache_dir + "/image/" + name;
  }
  [[nodiscard]] std::string part(const std::string& name) const { return directory_->path() + "/" + name; }

  /// The newest own package of that name, if it is one of ours.
  [[nodiscard]] std::optional<std::string> local_package(const std::string& name) const {
    for (const std::string& directory : options_.package_dirs) {
      std::error_code missing;
      std::optional<fs::path> newest;
      for (const auto& entry : fs::directory_iterator(directory, missing)) {
        std::string file = entry.path().filename();
        if (!file.starts_with(name + "_") || !file.ends_with(".deb")) continue;
        if (!newest || fs::last_write_time(entry) > fs::last_write_time(*newest)) newest = entry.path();
      }
      if (newest) return fs::absolute(*newest).string();
    }
    return std::nullopt;
  }

  /// Which packages it takes, and from that what the result is known by.
  void plan() {
    std::vector<base::Word> wanted = rootfs::variant_packages("essential");
    std::set<std::string> local_names;
    wanted.push_back({.text = definition_.kernel.package});
    for (const base::Word& word : definition_.packages) {
      auto local = local_package(word.text);
      if (local) {
        local_.push_back(*local);
        local_names.insert(word.text);
      }
      // The suite is in apt's preferences.
      wanted.push_back({.text = local.value_or(word.text.substr(0, word.text.find('/'))), .line = word.line});
    }
    std::string lock = lock_path(definition_.file);
    auto locked = options_.update_lock ? std::nullopt : read_lock(lock, definition_.name);
    if (locked) {
      packages_ = *locked;
      if (!std::ranges::all_of(packages_,
                               [&](const auto& package) { return base::exists(apt_.package_file(package)); }))
        apt_.update(options_.offline);
    } else {
      apt_.update(options_.offline);
      base::Phase phase(context_.progress, "plan");
      packages_ = apt_.resolve(wanted, "");
      std::erase_if(packages_, [&](const auto& package) { return local_names.contains(package.name); });
    }
    if (options_.update_lock) write_lock(lock, definition_.name, packages_);
    std::string list, own, tools;
    for (const rootfs::Package& package : packages_)
      list += std::format("{}={} {}\n", package.name, package.version, package.architecture);
    for (const std::string& file : local_) own += base::sha256_file_hex(file) + "\n";
    std::vector<std::string> ask = {"dpkg-query", "--show"};
    ask.insert(ask.end(), kTools.begin(), kTools.end());
    tools = context_.runner.run_any({.argv = ask}).out;
    inputs_ = {{"definition", definition_.hash},
               {"packages", base::sha256_hex(list)},
               {"own-packages", base::sha256_hex(own)},
               {"tools", base::sha256_hex(tools + (options_.backend == Backend::kGuestfs ? "guestfs" : ""))},
               {"format", base::sha256_hex(std::string(kBuildFormat) + hardware_tables())}};
  }

  /// A driver more in them is another image, too.
  static std::string hardware_tables() {
    std::string text;
    for (std::string_view name : initrd_modules()) text += " " + std::string(name);
    for (std::string_view name : node_modules()) text += " " + std::string(name);
    for (const Family& family : hardware_families())
      for (std::string_view name : family.modules) text += " " + std::string(name);
    return text;
  }

  /// What is in the image directory, if it is whole, ours, and made of the same.
  std::optional<Manifest> unchanged() {
    if (!base::exists(options_.out + "/" + std::string(kManifestFile))) return std::nullopt;
    try {
      before_ = read_image(options_.out, keys_);
    } catch (const base::Error& error) {
      context_.progress.note("what is in " + options_.out + " is made anew: " + error.message());
      return std::nullopt;
    }
    bool same = before_->name == definition_.name && before_->inputs == inputs_ && !options_.rebuild &&
                (!options_.version || before_->version == *options_.version);
    for (const Part& one : before_->parts) {
      struct stat status;
      same = same && ::stat((options_.out + "/" + one.name).c_str(), &status) == 0 &&
             static_cast<uint64_t>(status.st_size) == one.bytes;
    }
    return same ? before_ : std::nullopt;
  }

  /// Beside the image directory, on the same file system. What an earlier build left is removed.
  void make_directory() {
    fs::path out = fs::absolute(options_.out);
    base::make_directories(out.parent_path());
    std::string prefix = "." + out.filename().string() + ".new-";
    for (const auto& entry : fs::directory_iterator(out.parent_path()))
      if (entry.path().filename().string().starts_with(prefix)) base::remove_tree(entry.path());
    directory_ = base::TempDir::make(out.parent_path(), prefix);
    fs::permissions(directory_->path(), fs::perms(0755));
  }

  void make_root(const rootfs::Workspace& workspace) {
    clock_ = apt_.youngest(packages_);
    version_ = next_version();
    std::string tree = workspace.directory("root");
    install_root(context_, apt_, packages_, local_, definition_.suite, clock_, options_.cache_dir, tree);
    Installed installed = installed_in(tree);
    installed_ = installed.packages;
    kernel_ = kernel_version_of(tree);
    fs::copy_file(tree + "/boot/vmlinuz-" + kernel_, part("vmlinuz"));
    ModuleTables tables = ModuleTables::read(tree + "/usr/lib/modules/" + kernel_);
    make_initrd_part(workspace, tree, tables);

    strip(tree, tables, installed);
    rootfs::TreeSize size = rootfs::settle(tree, clock_);
    pack(tree, size.most_packed);
  }

  void strip(const std::string& tree, const ModuleTables& tables, const Installed& installed) {
    base::Phase phase(context_.progress, "strip");
    std::string modules = "/usr/lib/modules/" + kernel_;
    std::vector<std::string> kept = tables.files(wanted_modules(/*all=*/true, tables));
    std::vector<std::string> kept_paths;
    for (const std::string& file : kept) kept_paths.push_back(tree + modules + "/" + file);
    auto removed = strip_root(tree, definition_.strip, kernel_, {kept.begin(), kept.end()},
                              firmware_of(context_, kept_paths));
    context_.runner.run({.argv = {"depmod", "--basedir=" + tree, kernel_}});
    // kmod reads the .bin files.
    for (const char* name :
         {"modules.dep", "modules.alias", "modules.symbols", "modules.symbols.bin", "modules.devname"})
      base::remove_tree(tree + modules + "/" + name);
    place_definition(definition_, version_, tree);
    require_whole(tree);
    base::write_file(part("contents.json"), contents_of(tree, installed, removed).render());
  }

  /// Of the families, and what every node needs; `all`: also what the initrd can do without.
  [[nodiscard]] std::vector<std::string_view> wanted_modules(bool all, const ModuleTables& tables) const {
    std::vector<std::string_view> names(initrd_modules().begin(), initrd_modules().end());
    for (const Family& family : hardware_families()) {
      auto word = std::ranges::find_if(definition_.hardware, [&](const base::Word& one) {
        return one.text == family.name || one.text == "all";
      });
      if (word == definition_.hardware.end() || (!all && !family.early)) continue;
      if (word->text != "all" &&
          std::ranges::none_of(family.modules, [&](auto name) { return tables.has(name); }))
        throw base::error("{}: hardware: the kernel {} has no driver of {}", definition_.at(word->line),
                          kernel_, family.name)
            .hint("[kernel] package = \"linux-image-amd64\" has them all");
      names.insert(names.end(), family.modules.begin(), family.modules.end());
    }
    if (all) names.insert(names.end(), node_modules().begin(), node_modules().end());
    return names;
  }

  void make_initrd_part(const rootfs::Workspace& workspace, const std::string& tree,
                        const ModuleTables& tables) {
    base::Phase phase(context_.progress, "initrd");
    if (!base::exists(tree + std::string(kInit)))
      throw base::error("{}: packages: the image has no drover-node, so nothing in its initrd starts it",
                        definition_.file)
          .hint("add drover-node, and name its directory with --packages DIR where it is not found");
    InitrdParts parts = {.root = tree,
                         .init = tree + std::string(kInit),
                         .module_directory = "/usr/lib/modules/" + kernel_,
                         .modules = tables.files(wanted_modules(/*all=*/false, tables))};
    std::string key = base::sha256_file_hex(parts.init) + kernel_ + inputs_["packages"] + inputs_["format"] +
                      inputs_["tools"];
    for (const std::string& module : parts.modules) key += "\n" + module;
    std::string cached = cache("initrds/") + base::sha256_hex(key);
    if (!base::exists(cached)) {
      base::make_directories(cache("initrds"));
      std::string made = workspace.directory("initrd") + "/done";
      make_initrd(context_, parts, workspace.directory("initrd"), made);
      fs::copy_file(made, cached + ".part", fs::copy_options::overwrite_existing);
      fs::rename(cached + ".part", cached);
    }
    fs::copy_file(cached, part("initrd"));
  }

  void require_whole(const std::string& tree) const {
    std::vector<Gap> gaps = find_gaps(tree);
    if (gaps.empty()) return;
    std::string shown;
    for (size_t i = 0; i < std::min(gaps.size(), kGapsShown); ++i)
      shown += std::format("\n    {}: {}", gaps[i].file, gaps[i].needs);
    throw base::error("{}: strip: {} files of the root miss what they need:{}{}", definition_.file,
                      gaps.size(), shown, gaps.size() > kGapsShown ? "\n    …" : "")
        .hint("add what is missing to strip.keep, or what misses it to strip.drop");
  }

  /// root.img: the erofs image, and its hash tree behind it.
  void pack(const std::string& tree, uint64_t most) {
    rootfs::make_erofs(context_,
                       {.root = tree,
                        .clock = clock_,
                        .uuid = rootfs::uuid_from(definition_.hash + " root"),
                        .compression = definition_.root.compression,
                        .cluster = definition_.root.cluster},
                       most, part("root.img"));
    base::Phase phase(context_.progress, "verity");
    add_verity();
  }

  void add_verity() {
    std::string salt = base::sha256_hex(definition_.hash + " salt"),
                uuid = rootfs::uuid_from(definition_.hash + " verity");
    VerityTree verity(salt, uuid);
    base::Fd file = base::open(part("root.img"), O_RDWR);
    std::vector<std::byte> buffer(kMiB);
    uint64_t bytes = 0;
    while (size_t got = base::read_full(file.get(), buffer)) {
      verity.add(std::span(buffer).first(got));
      bytes += got;
    }
    VerityTree::Area area = verity.area();
    base::write_full(file.get(), area.bytes, "root.img");
    root_ = {.data_bytes = bytes, .root_hash = area.root_hash, .salt = salt, .uuid = uuid};
  }

  void make_boot_parts() {
    std::string line = std::format("drover.slot=$choice drover.root={} drover.hash-offset={} gpt",
                                   root_.root_hash, root_.hash_offset());
    if (!definition_.kernel.console.empty()) line += " console=tty0 console=" + definition_.kernel.console;
    for (const base::Word& word : definition_.kernel.command_line) line += " " + word.text;
    base::write_file(part("boot.cfg"),
                     std::format("linux $prefix/$choice/vmlinuz {}\ninitrd $prefix/$choice/initrd\n", line));
    make_loader(context_, part("loader"));
  }

  void make_disk() {
    struct stat root;
    if (::stat(part("root.img").c_str(), &root) != 0) throw base::sys_error("cannot look at root.img");
    uint64_t slot =
        definition_.slots.bytes.value_or(static_cast<uint64_t>(root.st_size) * definition_.slots.factor);
    layout_ = {.slot_bytes = (slot + kMiB - 1) / kMiB * kMiB,
               .data_bytes = definition_.data.bytes,
               .data_file_system = definition_.data.file_system,
               .seed = definition_.hash,
               .clock = clock_};
    DiskParts parts = {.root_image = part("root.img"),
                       .vmlinuz = part("vmlinuz"),
                       .initrd = part("initrd"),
                       .boot_cfg = part("boot.cfg"),
                       .loader_dir = part("loader")};
    if (options_.backend == Backend::kGuestfs)
      compose_disk_guestfs(context_, layout_, parts, part("disk.img"), options_.cache_dir);
    else
      compose_disk(context_, layout_, parts, part("disk.img"));
  }

  /// The day of the youngest package, and one more than what was there with the same day.
  [[nodiscard]] std::string next_version() const {
    if (options_.version) return *options_.version;
    auto day = std::chrono::floor<std::chrono::days>(std::chrono::sys_seconds(std::chrono::seconds(clock_)));
    auto version = std::stoull(std::format("{:%Y%m%d}01", day));
    if (before_ && before_->name == definition_.name && before_->inputs != inputs_)
      version = std::max(version, std::stoull(before_->version) + 1);
    return std::to_string(version);
  }

  BuildResult commit() {
    Manifest manifest;
    manifest.name = definition_.name;
    manifest.version = version_;
    manifest.suite = definition_.suite;
    manifest.architecture = "amd64";
    manifest.clock = clock_;
    manifest.definition_hash = definition_.hash;
    manifest.kernel_version = kernel_;
    manifest.drover_version = std::string(options_.drover_version);
    manifest.root = root_;
    manifest.slot_bytes = layout_.slot_bytes;
    manifest.disk = {.esp_bytes = layout_.esp_bytes,
                     .data_bytes = layout_.data_bytes,
                     .data_file_system = layout_.data_file_system};
    manifest.packages = installed_;
    manifest.inputs = inputs_;
    base::write_file(part("sbom.spdx.json"), render_sbom(manifest));
    {
      base::Phase phase(context_.progress, "hash");
      for (const PartKind& kind : part_kinds()) {
        std::string file = part(std::string(kind.name));
        struct stat status;
        if (::stat(file.c_str(), &status) != 0) {
          if (errno == ENOENT && !kind.needed) continue;
          throw base::sys_error("cannot look at {}", kind.name);
        }
        manifest.parts.push_back({.name = std::string(kind.name),
                                  .bytes = static_cast<uint64_t>(status.st_size),
                                  .sha256 = base::sha256_file_hex(file)});
        base::fsync_path(file);
      }
    }
    write_manifest(directory_->path(), manifest, keys_);
    exchange();
    return {.manifest = manifest};
  }

  /// The commit point: from here on the new image has the name.
  void exchange() {
    std::string made = directory_->path(), out = options_.out;
    if (base::exists(out)) {
      if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, out.c_str(), RENAME_EXCHANGE) != 0)
        throw base::sys_error("cannot put the image in the place of {}", out);
      // The old one has the other name now, and goes with it.
    } else if (::rename(made.c_str(), out.c_str()) != 0) {
      throw base::sys_error("cannot give the image its name {}", out);
    } else {
      directory_->release();
    }
    base::fsync_path(fs::absolute(out).parent_path());
  }

  base::Context& context_;
  const Definition& definition_;
  const BuildOptions& options_;
  base::Keys keys_;
  rootfs::Apt apt_;
  std::vector<rootfs::Package> packages_;  ///< of Debian, all of them
  std::vector<std::string> local_;         ///< files of own packages
  std::map<std::string, std::string> inputs_;
  std::optional<Manifest> before_;  ///< what stands there now
  std::optional<base::TempDir> directory_;
  int64_t clock_ = 0;
  std::string version_, kernel_;
  std::vector<Package> installed_;
  Root root_;
  DiskLayout layout_;
};

}  // namespace

BuildResult build(base::Context& context, const Definition& definition, const BuildOptions& options) {
  BuildResult result;
  rootfs::in_private_mounts([&] {
    try {
      result = Build(context, definition, options).run();
    } catch (base::Error& error) {
      error.context("building " + definition.name);
      throw;
    }
  });
  return result;
}

}  // namespace image
