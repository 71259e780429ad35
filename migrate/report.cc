#include "migrate/report.h"

#include <cmath>
#include <format>

namespace migrate {
namespace {

const char* to_string(Outcome outcome) {
  switch (outcome) {
    case Outcome::kMoved:
      return "moved";
    case Outcome::kRolledBack:
      return "rolled_back";
    case Outcome::kFailed:
      return "failed";
  }
  return "?";
}

double rounded(double ms) { return std::round(ms * 10) / 10; }

std::string readable(uint64_t bytes) {
  if (bytes == 0) return "";
  if (bytes < 10000) return std::format("{} B", bytes);
  if (bytes < 10'000'000) return std::format("{:.1f} kB", static_cast<double>(bytes) / 1e3);
  return std::format("{:.1f} MB", static_cast<double>(bytes) / 1e6);
}

}  // namespace

nlohmann::ordered_json Report::json() const {
  auto list = nlohmann::ordered_json::array();
  for (const auto& p : phases) list.push_back({{"name", p.name}, {"ms", rounded(p.ms)}, {"bytes", p.bytes}});
  return {{"box", box},
          {"from", from},
          {"to", to},
          {"mode", mode},
          {"outcome", to_string(outcome)},
          {"epoch", epoch},
          {"freeze_ms", rounded(freeze_ms)},
          {"total_ms", rounded(total_ms)},
          {"wire_bytes", wire_bytes},
          {"phases", list}};
}

std::string Report::table() const {
  std::string out = std::format("{:<14} {:>10} {:>12}\n", "PHASE", "MS", "BYTES");
  for (const auto& p : phases)
    out += std::format("{:<14} {:>10.1f} {:>12}\n", p.name, p.ms, readable(p.bytes));
  out += std::format("{} {} from {} to {}: frozen for {:.0f} ms of {:.0f} ms, {} on the wire, epoch {}\n",
                     box, outcome == Outcome::kMoved ? "moved" : to_string(outcome), from, to, freeze_ms,
                     total_ms, readable(wire_bytes), epoch);
  return out;
}

}  // namespace migrate
