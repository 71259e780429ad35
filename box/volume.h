#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "base/context.h"
#include "base/fd.h"
#include "box/config.h"
#include "box/node.h"

namespace box {

/// A private layer lies in a volume of one of two kinds: `dir`, a directory of the node's own file system,
/// or `image`, an ext4 of its own in a sparse file, on a loop device.

/// `dir` or `image:SIZE`, SIZE a number with M or G: the size of the image, 0 for `dir`. Throws a usage
/// error.
uint64_t parse_volume(const std::string& text);
/// What parse_volume() reads.
std::string volume_text(uint64_t image_bytes);

/// Makes an empty image of config.image_bytes; throws when the disk could not hold it were it full.
void make_image(const base::Context& context, const Config& config, const Paths& paths);
/// Mounts the image at paths.priv, unless it is. Nobody else has it: a mount that is still on its way out is
/// waited for. The loop device goes with the mount.
void mount_image(const Config& config, const Paths& paths);
/// Throws when this node cannot mount images.
void require_images();

/// Whether the private layer is an image.
bool has_image(const Paths& paths);
/// What it takes of the disk, holes not counted; 0 when there is none.
uint64_t image_bytes_on_disk(const Paths& paths);
/// What a move sends, and where it arrives: the image's directory, or the private layer itself.
const std::string& sent_directory(const Paths& paths);
/// All that the box has written so far is in the image. Nothing to do for `dir`.
void sync_image(const Paths& paths);

/// The private layer, to be read, whether it is mounted or not. Nothing of it is left with the descriptor.
base::Fd open_upper(const Paths& paths);

}  // namespace box
