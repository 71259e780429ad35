#include "cli/places.h"

#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

namespace cli {
namespace {

/// A variable that names an absolute path; the specification wants all others ignored.
std::string directory_in(const char* variable) {
  const char* value = ::getenv(variable);
  return value != nullptr && *value == '/' ? value : "";
}

std::string home() {
  std::string home = directory_in("HOME");
  if (!home.empty()) return home;
  const passwd* user = ::getpwuid(::geteuid());
  return user != nullptr ? user->pw_dir : "";
}

Places find_own_places() {
  std::string own = home();
  if (::geteuid() == 0 || own.empty()) return system_places();
  std::string state = directory_in("XDG_STATE_HOME"), cache = directory_in("XDG_CACHE_HOME"),
              run = directory_in("XDG_RUNTIME_DIR");
  Places places = {.state_dir = (state.empty() ? own + "/.local/state" : state) + "/drover",
                   .run_dir = run + "/drover",
                   .cache_dir = (cache.empty() ? own + "/.cache" : cache) + "/drover"};
  if (run.empty()) places.run_dir = places.state_dir + "/run";
  return places;
}

}  // namespace

const Places& system_places() {
  static const Places places = {
      .state_dir = "/var/lib/drover", .run_dir = "/run/drover", .cache_dir = "/var/cache/drover"};
  return places;
}

const Places& own_places() {
  static const Places places = find_own_places();
  return places;
}

}  // namespace cli
