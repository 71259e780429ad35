#pragma once
#include <functional>
#include <string>

/// What a build keeps for the next one, below the cache directory: image/roots/KEY.tar,
/// image/initrds/KEY and image/times/NAME.json.
/// Whoever calls this has the cache's lock (rootfs::Apt).
namespace image {

/// Makes `file`, whose directory it makes too: `make` writes it under the name that it is given. It is whole
/// and on disk before it has its own name, and after an Error there is nothing of it.
void make_cached(const std::string& file, const std::function<void(const std::string& part)>& make);

/// Removes what builds that were killed have left: half files, and directories that they worked in.
void remove_leftovers(const std::string& cache_dir);

}  // namespace image
