#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rootfs/parts.h"

namespace image {

/// What a host image is made from: a TOML file, and those that it is from (docs/formats/image-definition.md).
/// What is not given has the value that stands here.
struct Definition {
  using Word = base::Word;
  using Mirror = rootfs::Mirror;
  using File = rootfs::File;

  struct Kernel {
    std::string package = "linux-image-amd64";
    std::vector<Word> command_line;        ///< after what drover itself says there; no spaces in a word
    std::string console = "ttyS0,115200";  ///< serial, the kernel's and the loader's: ttyN,SPEED; empty: none
  };

  struct Strip {
    bool documentation = true, locales = true, caches = true;
    std::vector<Word> keep, drop;  ///< shell patterns of absolute paths; keep wins, also over the three above
  };

  struct Root {
    std::string compression = "zstd,12";  ///< as `mkfs.erofs -z` takes it, with its level; empty: none
    unsigned cluster = 65'536;  ///< bytes that are compressed together: a power of two, 4096 to 1 MiB
  };

  struct Slots {
    std::optional<uint64_t> bytes;  ///< of each slot; a multiple of 1 MiB
    unsigned factor = 4;            ///< without `bytes`: so many times what the first root takes
  };

  struct Data {
    std::string file_system = "ext4";  ///< or "xfs"
    uint64_t bytes = 512 << 20;        ///< in the image; it grows to the disk on first boot
  };

  struct User {
    std::string name;  ///< root too, for its keys
    std::optional<unsigned> uid;
    std::vector<std::string> groups;    ///< besides its own
    std::string shell = "/bin/bash";    ///< an absolute path
    std::vector<std::string> ssh_keys;  ///< lines of authorized_keys: TYPE BASE64 COMMENT, and no options
    std::string place;                  ///< "FILE:LINE"
  };

  /// A command that ends with 0 within its time where the node is well: only then is the slot confirmed.
  struct Health {
    std::string name;
    std::vector<std::string> command;  ///< no shell; the first word is an absolute path
    unsigned seconds = 30;
    std::string place;  ///< "FILE:LINE"
  };

  std::string file;  ///< where it came from, for messages
  std::string name, description, suite;
  Mirror mirror;
  std::vector<Word> packages;  ///< NAME, NAME=VERSION or NAME/SUITE, as apt takes them
  std::vector<Word> hardware;  ///< families (image/hardware.h), or the one word "all"
  Kernel kernel;
  Strip strip;
  Root root;
  Slots slots;
  Data data;
  std::vector<File> files;
  std::vector<User> users;
  std::vector<Health> health;
  std::string keys;  ///< directory of the signing key (base/sign.h); empty: the state directory's keys
  /// SHA-256 in hex over all that decides what the image is: what was read, the contents of files too, but no
  /// comments, lines, file names, keys, or order of the TOML. UUIDs and salts come from it.
  std::string hash;
};

/// Reads a definition and the files it adds (relative to it). An Error names file, line, key and what was
/// expected.
Definition read_definition(const std::string& path);
/// The same of a text; files that it adds are read relative to `directory`.
Definition parse_definition(std::string_view text, const std::string& file, const std::string& directory);

}  // namespace image
