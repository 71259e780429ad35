#include "image/build.h"

#include <unistd.h>

#include <filesystem>

#include "base/error.h"
#include "base/fd.h"
#include "base/pause.h"
#include "image/boot_parts.h"
#include "image/build_times.h"
#include "image/cache.h"
#include "image/new_image.h"
#include "image/plan.h"
#include "image/root_parts.h"
#include "rootfs/space.h"
#include "rootfs/workspace.h"

namespace image {
namespace {

constexpr const char* kMakeRoom = "free some, or name another directory with -o";

/// Between two steps: where the build may stop, and for crash tests.
void done(std::string_view step) {
  base::pause_point(std::format("build.{}", step));
  base::check_interrupt();
}

/// From the plan to the commit, in a private mount namespace.
BuildResult build_here(base::Context& context, const Definition& definition, const BuildOptions& options) {
  base::Keys keys(definition.keys.empty() ? options.keys_dir : definition.keys);
  rootfs::Apt apt(context, origin_of(definition, options.offline), options.cache_dir);
  remove_leftovers(options.cache_dir);
  base::WholeWork whole(context.progress, "build " + definition.name,
                        expected_times(options.cache_dir, definition.name));
  Plan plan = make_plan(context, apt, definition, options);
  std::optional<Manifest> there = image_there(context, options, keys);
  if (there && is_current(*there, definition, plan, options)) return {.manifest = *there, .unchanged = true};

  done("planned");
  apt.download(plan.packages, "");
  int64_t clock = apt.youngest(plan.packages);
  std::string version = next_version(there, definition, plan, options, clock);

  std::string scratch = options.cache_dir + "/image/scratch";
  base::make_directories(scratch);
  rootfs::Workspace workspace(context, scratch, /*on_disk=*/false);
  NewImage image(options.out);
  RootParts made = make_root_parts(context, apt,
                                   {.definition = definition,
                                    .plan = plan,
                                    .version = version,
                                    .clock = clock,
                                    .cache_dir = options.cache_dir,
                                    .no_space_hint = kMakeRoom},
                                   workspace, image.directory());
  done("packed");
  make_boot_parts(context, definition, made.root, image.directory());
  DiskLayout layout = make_disk_part(context, definition, clock, options, image.directory());
  done("composed");

  Manifest manifest = {.name = definition.name,
                       .version = version,
                       .suite = definition.suite,
                       .architecture = "amd64",
                       .clock = clock,
                       .definition_hash = definition.hash,
                       .kernel_version = made.kernel_version,
                       .drover_version = options.drover_version,
                       .parts = {},  // as the commit finds them
                       .root = made.root,
                       .slot_bytes = layout.slot_bytes,
                       .disk = {.esp_bytes = layout.esp_bytes,
                                .data_bytes = layout.data_bytes,
                                .data_file_system = layout.data_file_system},
                       .packages = made.packages,
                       .inputs = plan.inputs};
  manifest = image.commit(context, std::move(manifest), keys);
  keep_times(options.cache_dir, definition.name, whole.end());
  return {.manifest = manifest};
}

}  // namespace

BuildResult build(base::Context& context, const Definition& definition, BuildOptions options) {
  namespace fs = std::filesystem;
  options.out = place_of_image(options.out);
  auto explained = [&](base::Error error) {
    error.context("building " + definition.name);
    return rootfs::explained(error, definition.name,
                             {{options.cache_dir, "free some, or name another place with --cache-dir"},
                              {fs::path(options.out).parent_path(), kMakeRoom}});
  };
  if (options.backend == Backend::kGuestfs && ::geteuid() != 0)
    throw base::error(
        "--backend guestfs is for root: libguestfs makes its appliance of this machine's files, "
        "and in a user namespace they do not belong to whom they should")
        .hint("leave it out, or sudo drover image build …");
  BuildResult result;
  rootfs::in_private_mounts(context, [&] {
    try {
      result = build_here(context, definition, options);
    } catch (const base::Error& error) {
      throw explained(error);
    } catch (const fs::filesystem_error& problem) {
      const fs::path& path = problem.path2().empty() ? problem.path1() : problem.path2();
      throw explained(base::Error("cannot write " + path.string(), problem.code().value()));
    }
  });
  return result;
}

}  // namespace image
