#pragma once
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace migrate {

enum class Outcome { kMoved, kRolledBack, kFailed };

/// What a move was: printed as a table, or with --json as one document.
struct Report {
  std::string box, from, to;
  std::string mode = "stop";
  Outcome outcome = Outcome::kFailed;
  uint64_t epoch = 0;    ///< of the box afterwards
  double freeze_ms = 0;  ///< from the source stopping the box to its first instruction at the destination
  double total_ms = 0;
  uint64_t wire_bytes = 0;  ///< in both directions, before the transport's own

  struct Phase {
    std::string name;
    double ms = 0;
    uint64_t bytes = 0;
  };
  std::vector<Phase> phases;

  [[nodiscard]] nlohmann::ordered_json json() const;
  [[nodiscard]] std::string table() const;
};

}  // namespace migrate
