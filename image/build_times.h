#pragma once
#include <string>
#include <vector>

#include "base/whole.h"

/// How long a build's phases take, for the time left that it shows. The cache keeps what the last builds
/// took, in image/times/NAME.json: an object of seconds by phase.
namespace image {

/// The phases of a build of the definition `name`, in their order: of its last builds with this cache where
/// there were any, else of node-vm on two cores.
std::vector<base::PhaseTime> expected_times(const std::string& cache_dir, const std::string& name);

/// For the builds after this one, where it can be written. What this one had no need to do stays as it was.
void keep_times(const std::string& cache_dir, const std::string& name,
                const std::vector<base::PhaseTime>& took);

}  // namespace image
