#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/context.h"
#include "image/gpt.h"

/// libguestfs: a small virtual machine with Debian's kernel that looks at disks, or fills them, for whoever
/// has no kernel of his own for it. (guestfs(3) of 1.54.)
namespace image {

/// What the appliance calls the disk that all this is about. Its partitions have the number behind it.
inline constexpr const char* kDiskDevice = "/dev/disk/guestfs/disk";
inline constexpr const char* kRootImageDevice = "/dev/disk/guestfs/root";

struct Drive {
  const char* device;  ///< one of the above: /dev/sda can be any of the drives
  std::string path;    ///< a raw file
  bool read_only = true;
};

/// The appliance's name of a partition of kDiskDevice.
std::string partition_device(const PartitionTable& table, std::string_view name);

/// One machine. Every call has a deadline and ends when we are asked to stop; each throws an Error with
/// libguestfs's words.
class [[nodiscard]] Appliance {
 public:
  /// Starts it. /dev/kvm may be there and hang (seen), so KVM is tried by booting, with a deadline; then, and
  /// where KVM is not there, QEMU interprets. What was found is kept in `cache_dir` until the next boot of
  /// this machine.
  Appliance(base::Context& context, const std::string& cache_dir, const std::vector<Drive>& drives);
  Appliance(const Appliance&) = delete;
  Appliance& operator=(const Appliance&) = delete;
  ~Appliance();  ///< what was written and not followed by close() may be lost

  /// All is on the drives; throws when it is not.
  void close();

  void write_table(const std::string& device, const PartitionTable& table);
  PartitionTable read_table(const std::string& device);

  std::string read(const std::string& device, uint64_t start, uint64_t bytes);  ///< 2 MiB at most
  void write(const std::string& device, uint64_t start, const std::string& bytes);
  void copy(const std::string& from, const std::string& to, uint64_t bytes);

  std::string file_system(const std::string& device);  ///< "ext4"; empty: none that is known
  std::string uuid(const std::string& device);         ///< of its file system
  std::string label(const std::string& device);
  void make_fat(const std::string& device, const std::string& label);
  void make_ext4(const std::string& device, const std::string& label, const std::string& uuid,
                 int64_t bytes_per_inode);
  void make_xfs(const std::string& device, const std::string& label, const std::string& uuid);

  /// One file system at a time, as the root of the paths below.
  void mount(const std::string& device, bool read_only);
  void unmount();
  void make_directory(const std::string& path);
  void write_file(const std::string& path, const std::string& content);
  void upload(const std::string& file, const std::string& path);
  void set_mode(const std::string& path, uint32_t mode);
  bool exists(const std::string& path);  ///< follows symbolic links
  std::string read_file(const std::string& path);
  std::string sha256(const std::string& path);

  /// A line for the appliance's own shell, and what it says; throws when it fails. For what libguestfs has no
  /// call for. Nothing from outside may stand in it unchecked.
  std::string shell(const std::string& line);

 private:
  struct Handle;
  struct Shown;
  base::Context& context_;
  std::unique_ptr<Handle> handle_;
};

}  // namespace image
