#include "image/build_times.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <exception>

#include "base/error.h"
#include "base/fd.h"
#include "image/cache.h"

namespace image {
namespace {

using nlohmann::json;

std::string file_of(const std::string& cache_dir, const std::string& name) {
  return cache_dir + "/image/times/" + name + ".json";
}

/// An empty object when there is none, or none that can be read: then it is made anew.
json kept(const std::string& cache_dir, const std::string& name) try {
  json times =
      json::parse(base::read_file_if_exists(file_of(cache_dir, name)).value_or("{}"), nullptr, false);
  return times.is_object() ? times : json::object();
} catch (const base::Error&) {
  return json::object();
}

}  // namespace

std::vector<base::PhaseTime> expected_times(const std::string& cache_dir, const std::string& name) {
  // As ci/bench image sees them. What takes no time worth a figure is here for its place in the order: a
  // phase that begins tells that those before it will not come any more.
  std::vector<base::PhaseTime> expected = {{"plan", 3},
                                           {"packages", 30},
                                           {"install packages", 30},
                                           {"keep for the next build", 2},
                                           {"unpack packages", 0},
                                           {"install own packages", 0},
                                           {"initrd", 1},
                                           {"strip", 1},
                                           {"pack", 10},
                                           {"verity", 0},
                                           {"rest of the initrd", 0},
                                           {"loader", 0},
                                           {"disk", 0},
                                           {"hash", 2}};
  json times = kept(cache_dir, name);
  for (auto& [phase, seconds] : expected)
    if (auto found = times.find(phase); found != times.end() && found->is_number())
      seconds = std::clamp(found->get<double>(), 0.0, 3600.0);
  return expected;
}

void keep_times(const std::string& cache_dir, const std::string& name,
                const std::vector<base::PhaseTime>& took) {
  json times = kept(cache_dir, name);
  for (const auto& [phase, seconds] : took) times[phase] = seconds;
  try {
    make_cached(file_of(cache_dir, name),
                [&](const std::string& half) { base::write_file(half, times.dump() + "\n"); });
  } catch (const std::exception&) {  // the image is there, and a worse guess next time is no reason to say it
                                     // is not
  }
}

}  // namespace image
