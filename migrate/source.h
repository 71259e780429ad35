#pragma once
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "base/context.h"
#include "migrate/plan.h"
#include "migrate/report.h"

namespace migrate {

struct MoveRequest {
  std::string box;
  std::string to;                ///< node, as the transport knows it
  std::vector<std::string> rsh;  ///< words of the transport's command
  Goal goal;
  unsigned streams = 0;  ///< connections for the memory; 0: as many as pay
  bool dry_run = false;  ///< nothing is moved: the report says what a move would be
};

/// Moves a running box to another node. On return it runs there, and the report's outcome is kMoved; on
/// an Error the exit code says what is true (style of all commands): 1, the box was not touched; 3, it
/// was frozen and goes on here; 4, it was given away and the other node has not confirmed.
/// `report` is filled in as far as the move got, in every case.
void move_box(base::Context& context, const MoveRequest& request, Report& report);

}  // namespace migrate
