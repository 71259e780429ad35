#pragma once
#include <string>

#include "base/context.h"
#include "image/disk.h"

namespace image {

/// Makes the data partition's file system, with its files in it, in a sparse file of its own, `file`: the
/// same layout and files give the same bytes. `scratch` is a directory for what it needs meanwhile.
void make_data_system(base::Context& context, const DiskLayout& layout, const std::vector<DataFile>& files,
                      const std::string& scratch, const std::string& file);

}  // namespace image
