#pragma once
#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/progress.h"
#include "migrate/plan.h"

namespace migrate {

enum class Outcome {
  kMoved,
  kRolledBack,
  kFailed,
  kPlanned,  ///< a dry run: nothing was to happen
};

/// What a move was: printed as a table, or with --json as one document.
struct Report {
  std::string box, from, to;
  std::string mode = "stop";
  Outcome outcome = Outcome::kFailed;
  uint64_t epoch = 0;    ///< of the box afterwards
  double freeze_ms = 0;  ///< from the source stopping the box to its first instruction at the destination
  double total_ms = 0;
  uint64_t wire_bytes = 0;  ///< in both directions, before the transport's own
  unsigned streams = 1;     ///< connections that carried the memory

  struct Phase {
    std::string name;
    double ms = 0;
    uint64_t bytes = 0;
    bool of_box = true;  ///< they are files or memory of the box that went over
  };
  std::vector<Phase> phases;

  /// What was predicted, and beside it what happened. Without a prediction neither is shown; after a dry run,
  /// or a refusal, nothing happened.
  std::optional<Forecast> predicted;
  int rounds = 0;         ///< of memory, while the box ran
  double bandwidth = 0;   ///< bytes per second, of those; 0: not measured
  double dirty_rate = 0;  ///< bytes per second, in the last round

  [[nodiscard]] nlohmann::ordered_json json() const;
  [[nodiscard]] std::string table() const;

 private:
  [[nodiscard]] uint64_t bytes() const;
};

/// A phase while it lasts: `progress` hears of its begin and end, and at its end `phases` gets it.
class [[nodiscard]] Step {
 public:
  /// `total`: bytes that it will have, where that is known.
  Step(base::Progress& progress, std::vector<Report::Phase>& phases, std::string name, uint64_t total = 0);
  Step(const Step&) = delete;
  Step& operator=(const Step&) = delete;
  ~Step();
  uint64_t bytes = 0;
  double without = 0;  ///< ms in it that another phase counts
  bool of_box = true;  ///< as Report::Phase has it

 private:
  std::vector<Report::Phase>& phases_;
  std::string name_;
  base::Phase phase_;
  std::chrono::steady_clock::time_point start_;
};

double ms_since(std::chrono::steady_clock::time_point start);

/// What `box checkpoint` or `box restore` did.
struct FileReport {
  std::string box, file;
  std::string outcome;  ///< saved, shelved (saved, and no longer here) or restored
  uint64_t epoch = 0;   ///< of the box in the file, or of the restored one
  uint64_t bytes = 0;   ///< of the file
  double freeze_ms = 0;
  double total_ms = 0;
  std::vector<Report::Phase> phases;

  [[nodiscard]] nlohmann::ordered_json json() const;
  [[nodiscard]] std::string table() const;
};

}  // namespace migrate
