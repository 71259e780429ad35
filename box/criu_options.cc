#include "box/criu_options.h"

#include <sys/mman.h>
#include <unistd.h>

#include <format>

#include "base/error.h"

namespace box {

Options make_options(const std::string& program) {
  criu_opts* raw = nullptr;
  if (criu_local_init_opts(&raw) != 0) throw base::error("libcriu has no memory");
  Options o(raw);
  criu_local_set_service_binary(raw, program.c_str());
  return o;
}

ConfigFile::ConfigFile(const std::string& text) : fd_(::memfd_create("criu.conf", MFD_CLOEXEC)) {
  if (!fd_) throw base::sys_error("cannot make a memory file");
  base::write_full(fd_.get(), text, "CRIU's configuration");
  path_ = std::format("/proc/{}/fd/{}", ::getpid(), fd_.get());
}

void set_common(criu_opts* o, int images, int work, const ConfigFile& config) {
  criu_local_set_images_dir_fd(o, images);
  criu_local_set_work_dir_fd(o, work);
  if (criu_local_set_config_file(o, config.path()) != 0) throw base::error("libcriu has no memory");
  criu_local_set_log_level(o, CRIU_LOG_INFO);
  criu_local_set_tcp_established(o, true);
  criu_local_set_file_locks(o, true);
  criu_local_set_link_remap(o, true);
  criu_local_set_orphan_pts_master(o, true);
  // The box's group is ours to make: CRIU would recreate its path in every hierarchy of
  // version 1 as well, and leave it there.
  criu_local_set_manage_cgroups(o, true);
  criu_local_set_manage_cgroups_mode(o, CRIU_CG_MODE_IGNORE);
}

}  // namespace box
