#include "migrate/report.h"

#include <cmath>
#include <format>
#include <utility>

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
    case Outcome::kPlanned:
      return "planned";
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

nlohmann::ordered_json json_of(const std::vector<Report::Phase>& phases) {
  auto list = nlohmann::ordered_json::array();
  for (const auto& p : phases) list.push_back({{"name", p.name}, {"ms", rounded(p.ms)}, {"bytes", p.bytes}});
  return list;
}

std::string table_of(const std::vector<Report::Phase>& phases) {
  std::string out = std::format("{:<14} {:>10} {:>12}\n", "PHASE", "MS", "BYTES");
  for (const auto& p : phases)
    out += std::format("{:<14} {:>10.1f} {:>12}\n", p.name, p.ms, readable(p.bytes));
  return out;
}

uint64_t whole(double bytes) { return static_cast<uint64_t>(std::llround(bytes)); }

std::string per_second(double bytes) { return bytes > 0 ? readable(whole(bytes)) + "/s" : ""; }

nlohmann::ordered_json json_of(const Forecast& f) {
  return {{"rounds", f.rounds},
          {"bytes", f.bytes},
          {"total_ms", rounded(f.total_ms)},
          {"freeze_ms", rounded(f.freeze_ms)},
          {"bandwidth", whole(f.bandwidth)},
          {"dirty_rate", whole(f.dirty_rate)},
          {"reachable", f.reachable}};
}

/// `happened`: null where nothing did.
std::string table_of(const Forecast& predicted, const Forecast* happened) {
  std::string out =
      std::format("{:<14} {:>12}{}\n", "", "PREDICTED", happened ? std::format(" {:>12}", "HAPPENED") : "");
  const auto row = [&](const char* what, const auto& text) {
    const std::string line = std::format("{:<14} {:>12}", what, text(predicted));
    const std::string beside = happened ? text(*happened) : "";
    out += beside.empty() ? line + "\n" : std::format("{} {:>12}\n", line, beside);
  };
  row("rounds", [](const Forecast& f) { return std::to_string(f.rounds); });
  row("files, memory", [](const Forecast& f) { return f.bytes == 0 ? "0 B" : readable(f.bytes); });
  row("total", [](const Forecast& f) { return std::format("{:.0f} ms", f.total_ms); });
  row("freeze", [](const Forecast& f) { return std::format("{:.0f} ms", f.freeze_ms); });
  row("bandwidth", [](const Forecast& f) { return per_second(f.bandwidth); });
  row("box writes", [](const Forecast& f) {
    return f.dirty_rate == 0 && f.rounds > 0 ? "0 B/s" : per_second(f.dirty_rate);
  });
  return out;
}

}  // namespace

double ms_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

Step::Step(base::Progress& progress, std::vector<Report::Phase>& phases, std::string name, uint64_t total)
    : phases_(phases),
      name_(std::move(name)),
      phase_(progress, name_, total),
      start_(std::chrono::steady_clock::now()) {}

Step::~Step() { phases_.push_back({name_, ms_since(start_) - without, bytes, of_box}); }

/// What Forecast::bytes predicts.
uint64_t Report::bytes() const {
  uint64_t sum = 0;
  for (const auto& p : phases)
    if (p.of_box) sum += p.bytes;
  return sum;
}

nlohmann::ordered_json Report::json() const {
  nlohmann::ordered_json out = {{"box", box},
                                {"from", from},
                                {"to", to},
                                {"mode", mode},
                                {"outcome", to_string(outcome)},
                                {"epoch", epoch},
                                {"freeze_ms", rounded(freeze_ms)},
                                {"total_ms", rounded(total_ms)},
                                {"wire_bytes", wire_bytes},
                                {"streams", streams}};
  if (predicted) {
    out["rounds"] = rounds;
    out["bytes"] = bytes();
    out["bandwidth"] = whole(bandwidth);
    out["dirty_rate"] = whole(dirty_rate);
    out["predicted"] = json_of(*predicted);
  }
  out["phases"] = json_of(phases);
  return out;
}

std::string Report::table() const {
  if (outcome == Outcome::kPlanned && predicted)
    return table_of(*predicted, nullptr) +
           std::format("{} would move from {} to {} in {:.0f} ms with mode {}, frozen for {:.0f} ms{}\n", box,
                       from, to, predicted->total_ms, mode, predicted->freeze_ms,
                       predicted->reachable ? "" : ": longer than --max-downtime allows");
  std::string out = table_of(phases);
  if (predicted && outcome == Outcome::kMoved) {
    const Forecast happened = {.rounds = rounds,
                               .bytes = bytes(),
                               .total_ms = total_ms,
                               .freeze_ms = freeze_ms,
                               .bandwidth = bandwidth,
                               .dirty_rate = dirty_rate};
    out += "\n" + table_of(*predicted, &happened) + "\n";
  }
  out += std::format(
      "{} {} from {} to {}, frozen for {:.0f} ms of {:.0f} ms\n{} on the wire (packed){}, epoch {}\n", box,
      outcome == Outcome::kMoved ? "moved" : to_string(outcome), from, to, freeze_ms, total_ms,
      readable(wire_bytes), streams > 1 ? std::format(", memory over {} connections", streams) : "", epoch);
  return out;
}

nlohmann::ordered_json FileReport::json() const {
  nlohmann::ordered_json out = {{"box", box},     {"file", file},   {"outcome", outcome},
                                {"epoch", epoch}, {"bytes", bytes}, {"total_ms", rounded(total_ms)}};
  if (outcome == "saved") out["freeze_ms"] = rounded(freeze_ms);
  out["phases"] = json_of(phases);
  return out;
}

std::string FileReport::table() const {
  std::string out = table_of(phases);
  if (outcome == "restored")
    out += std::format("{} restored from {} in {:.0f} ms, epoch {}\n", box, file, total_ms, epoch);
  else if (outcome == "shelved")
    out += std::format("{} is in {} now, and no longer here: {}, {:.0f} ms, epoch {}\n", box, file,
                       readable(bytes), total_ms, epoch);
  else
    out += std::format("{} saved to {}: {}, frozen for {:.0f} ms of {:.0f} ms, epoch {}\n", box, file,
                       readable(bytes), freeze_ms, total_ms, epoch);
  return out;
}

}  // namespace migrate
