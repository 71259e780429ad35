#include "rootfs/workspace.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <exception>
#include <thread>

#include "base/error.h"
#include "base/fd.h"
#include "base/user_namespace.h"

namespace rootfs {
namespace {

/// A full Debian box's tree, its packages and room for their scripts.
constexpr uint64_t kMemoryNeeded = uint64_t{3} << 30;

constexpr std::string_view kHostName = "template";

uint64_t available_memory() {
  std::string text = base::read_file("/proc/meminfo");
  size_t at = text.find("MemAvailable:");
  return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + 13, nullptr, 10) << 10;
}

/// In a container also root may lack the right.
base::Error no_namespaces() {
  return base::sys_error("cannot make a mount namespace").hint(base::what_forbids_user_namespaces());
}

}  // namespace

void in_private_mounts(base::Context& context, const std::function<void()>& body) {
  if (::geteuid() != 0) base::enter_own_user_namespace(context.runner);
  std::exception_ptr failure;
  std::thread worker([&] {
    try {
      if (::unshare(CLONE_NEWNS | CLONE_NEWUTS) != 0) throw no_namespaces();
      // What asks for the host's name in a template shall not get the builder's.
      if (::sethostname(kHostName.data(), kHostName.size()) != 0)
        throw base::sys_error("cannot set the host's name");
      if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0)
        throw base::sys_error("cannot make the mounts private");
      ::umask(022);  // this thread's alone, since unshare
      body();
    } catch (...) {
      failure = std::current_exception();
    }
  });
  worker.join();
  if (failure) std::rethrow_exception(failure);
}

Workspace::Workspace(const base::Context& context, const std::string& scratch, bool on_disk) {
  if (on_disk || available_memory() < kMemoryNeeded) {
    base::make_directories(scratch);
    disk_ = base::TempDir::make(scratch, "build-");
    path_ = disk_->path();
    return;
  }
  path_ = context.run_dir + "/template-build";
  base::make_directories(path_);
  memory_ = base::Mount::make("drover-build", path_, "tmpfs", 0, "mode=0700,size=80%");
}

std::string Workspace::directory(const std::string& name) const {
  std::string path = path_ + "/" + name;
  base::make_directories(path);
  return path;
}

base::Mount mount_layer(const std::string& image, const std::string& target) {
  base::make_directories(target);
  try {
    return base::Mount::make(image, target, "erofs", MS_RDONLY);
  } catch (const base::Error& error) {
    if (error.err() != ENOTBLK) throw;  // before 6.12 only a block device can be mounted
  }
  base::LoopDevice loop = base::LoopDevice::attach(image, /*read_only=*/true);
  base::Mount mount = base::Mount::make(loop.path(), target, "erofs", MS_RDONLY);
  loop.detach();  // busy: the kernel frees it with the mount
  return mount;
}

base::Mount mount_overlay(const std::vector<std::string>& lower, const std::string& upper,
                          const std::string& work, const std::string& target) {
  base::make_directories(target);
  std::string options;
  for (auto layer = lower.rbegin(); layer != lower.rend(); ++layer)
    options += (options.empty() ? "lowerdir=" : ":") + *layer;
  if (upper.empty()) return base::Mount::make("overlay", target, "overlay", MS_RDONLY, options);
  // All that would leave this machine's marks in the upper is off.
  options += std::format(
      ",upperdir={},workdir={},index=off,redirect_dir=off,metacopy=off,xino=off,nfs_export=off", upper, work);
  return base::Mount::make("overlay", target, "overlay", 0, options);
}

}  // namespace rootfs
