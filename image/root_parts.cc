#include "image/root_parts.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/fd.h"
#include "base/hash.h"
#include "base/pause.h"
#include "image/cache.h"
#include "image/closure.h"
#include "image/contents.h"
#include "image/initrd.h"
#include "image/modules.h"
#include "image/root.h"
#include "image/strip.h"
#include "image/verity.h"
#include "rootfs/erofs.h"
#include "rootfs/strip.h"

namespace image {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kInit = "/usr/lib/drover/drover-init";
constexpr size_t kPiece = 1 << 20;
constexpr size_t kGapsShown = 12;

/// The tree, from the packages to the packed root.
class RootMaker {
 public:
  RootMaker(base::Context& context, const RootSource& source, std::string tree, std::string directory)
      : context_(context),
        definition_(source.definition),
        source_(source),
        tree_(std::move(tree)),
        directory_(std::move(directory)) {}

  RootParts run(const rootfs::Apt& apt, const rootfs::Workspace& workspace) {
    install_root(context_, apt, source_.plan.packages, source_.plan.own_packages, definition_.suite,
                 source_.clock, source_.cache_dir, tree_);
    base::pause_point("build.installed");
    base::check_interrupt();
    Installed installed = installed_in(tree_);
    kernel_ = kernel_version_of(tree_);
    fs::copy_file(tree_ + "/boot/vmlinuz-" + kernel_, part("vmlinuz"));
    ModuleTables tables = ModuleTables::read(tree_ + modules());
    begin_initrd(workspace, tables);
    strip(tables, installed);
    Root root = pack();
    finish_initrd();
    return {.kernel_version = kernel_, .packages = installed.packages, .root = root};
  }

 private:
  [[nodiscard]] std::string part(const std::string& name) const { return directory_ + "/" + name; }
  [[nodiscard]] std::string modules() const { return "/usr/lib/modules/" + kernel_; }
  /// Of files in modules().
  [[nodiscard]] std::set<std::string> firmware_for(const std::vector<std::string>& files) const {
    std::vector<std::string> paths;
    for (const std::string& file : files) paths.push_back(tree_ + modules() + "/" + file);
    return firmware_of(context_, paths);
  }

  /// Takes what it needs of the tree before that is stripped; what is left to do goes on beside all else.
  void begin_initrd(const rootfs::Workspace& workspace, const ModuleTables& tables) {
    base::Phase phase(context_.progress, "initrd");
    if (!base::exists(tree_ + std::string(kInit)))
      throw base::error("{}: packages: the image has no drover-node, so nothing in its initrd starts it",
                        definition_.file)
          .hint("add drover-node, and name its directory with --packages DIR where it is not found");
    InitrdParts parts = {.root = tree_,
                         .init = tree_ + std::string(kInit),
                         .module_directory = modules(),
                         .modules = tables.files(wanted_modules(definition_, tables, Needed::kInInitrd)),
                         .firmware = {}};
    // Its drivers find their devices here, and some ask for firmware only then: qede, and ice, have no
    // network without.
    std::set<std::string> firmware = firmware_files(tree_, firmware_for(parts.modules));
    parts.firmware.assign(firmware.begin(), firmware.end());
    const auto& inputs = source_.plan.inputs;
    std::string key = base::sha256_file_hex(parts.init) + kernel_ + inputs.at("packages") +
                      inputs.at("format") + inputs.at("tools");
    for (const std::string& module : parts.modules) key += "\n" + module;
    cached_initrd_ = source_.cache_dir + "/image/initrds/" + base::sha256_hex(key);
    if (!base::exists(cached_initrd_)) initrd_.emplace(context_, parts, workspace.directory("initrd"));
  }

  void finish_initrd() {
    base::Phase phase(context_.progress, "rest of the initrd");
    if (initrd_) make_cached(cached_initrd_, [&](const std::string& half) { initrd_->finish(half); });
    fs::copy_file(cached_initrd_, part("initrd"));
  }

  void strip(const ModuleTables& tables, const Installed& installed) {
    base::Phase phase(context_.progress, "strip");
    std::vector<std::string> kept = tables.files(wanted_modules(definition_, tables, Needed::kOnNode));
    auto removed =
        strip_root(tree_, definition_.strip, kernel_, {kept.begin(), kept.end()}, firmware_for(kept));
    context_.runner.run({.argv = {"depmod", "--basedir=" + tree_, kernel_}});
    // kmod reads the .bin files.
    for (const char* name :
         {"modules.dep", "modules.alias", "modules.symbols", "modules.symbols.bin", "modules.devname"})
      base::remove_tree(tree_ + modules() + "/" + name);
    place_definition(definition_, source_.version, tree_);
    require_whole();
    base::write_file(part("contents.json"), contents_of(tree_, installed, removed).render());
  }

  void require_whole() const {
    std::vector<Gap> gaps = find_gaps(tree_);
    if (gaps.empty()) return;
    std::string shown;
    for (size_t i = 0; i < std::min(gaps.size(), kGapsShown); ++i)
      shown += std::format("\n    {}: {}", gaps[i].file, gaps[i].needs);
    throw base::error("{}: strip: {} files of the root miss what they need:{}{}", definition_.file,
                      gaps.size(), shown, gaps.size() > kGapsShown ? "\n    …" : "")
        .hint("add what is missing to strip.keep, or what misses it to strip.drop");
  }

  /// root.img: the erofs image, and its hash tree behind it.
  Root pack() {
    rootfs::TreeSize size = rootfs::settle(tree_, source_.clock);
    rootfs::make_erofs(context_,
                       {.root = tree_,
                        .clock = source_.clock,
                        .uuid = rootfs::uuid_from(definition_.hash + " root"),
                        .compression = definition_.root.compression,
                        .cluster = definition_.root.cluster,
                        .no_space_hint = source_.no_space_hint},
                       size.most_packed, part("root.img"));
    base::Phase phase(context_.progress, "verity");
    return add_hash_area(part("root.img"), base::sha256_hex(definition_.hash + " salt"),
                         rootfs::uuid_from(definition_.hash + " verity"));
  }

  static Root add_hash_area(const std::string& path, const std::string& salt, const std::string& uuid) {
    VerityTree verity(salt, uuid);
    base::Fd file = base::open(path, O_RDWR);
    std::vector<std::byte> buffer(kPiece);
    uint64_t bytes = 0;
    while (size_t got = base::read_full(file.get(), buffer)) {
      verity.add(std::span(buffer).first(got));
      bytes += got;
    }
    VerityTree::Area area = verity.area();
    base::write_full(file.get(), area.bytes, path);
    return {.data_bytes = bytes, .root_hash = area.root_hash, .salt = salt, .uuid = uuid};
  }

  base::Context& context_;
  const Definition& definition_;
  const RootSource& source_;
  std::string tree_, directory_;
  std::string kernel_;  ///< its version
  std::string cached_initrd_;
  std::optional<Initrd> initrd_;  ///< none where it was cached
};

}  // namespace

RootParts make_root_parts(base::Context& context, const rootfs::Apt& apt, const RootSource& source,
                          const rootfs::Workspace& workspace, const std::string& directory) {
  return RootMaker(context, source, workspace.directory("root"), directory).run(apt, workspace);
}

}  // namespace image
