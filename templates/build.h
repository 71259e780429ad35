#pragma once
#include <string>

#include "base/context.h"
#include "templates/definition.h"
#include "templates/store.h"

namespace templates {

struct BuildOptions {
  std::string cache_dir;  ///< package lists and packages; may be emptied at any time
  bool offline = false;   ///< use what is in the cache
  bool rebuild = false;   ///< build although nothing has changed
  bool on_disk = false;   ///< work in the state directory, not in memory
};

struct BuildResult {
  Manifest manifest;
  bool unchanged = false;  ///< it was there already: nothing was added to the store
};

/// Makes a template version from a definition. Done, or nothing is changed but caches: mounts
/// and processes end with this process, half files are removed by the next gc.
BuildResult build(base::Context& context, Store& store, const Definition& definition,
                  const BuildOptions& options);

}  // namespace templates
