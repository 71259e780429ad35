#pragma once
#include <nlohmann/json_fwd.hpp>
#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "migrate/load.h"
#include "migrate/pages.h"
#include "migrate/transport.h"
#include "migrate/wire.h"

namespace migrate {

/// A box's memory has one connection that all else depends on. Lanes are further ones beside it, each with a
/// thread that reads, packs and sends, for where one thread, or one ssh, does not fill the link. Losing one
/// costs time and nothing else.
///
///     source                       destination: a process that hands the connection to the pager
///     kLane            ──────────>
///                      <──────────  kReady
///     kRound {number}  ──────────>  waits until the round of this number has begun on the first connection
///     kPages …         ──────────>  keeps them, as long as it is that round
///     kDataEnd         ──────────>
///                      <──────────  kRoundDone
///     … when the box has been restored
///                      <──────────  kWant     runs that nobody waits for yet
///     kPages           ──────────>

inline constexpr unsigned kMostStreams = 16;  ///< connections for one box's memory
inline constexpr unsigned kMostAutoStreams = 4;

/// The runs of a round, of which each connection takes the next one.
struct Share {
  explicit Share(std::vector<PageRun> all) : runs(std::move(all)) {}
  const PageRun* next();  ///< nullptr: all are taken
  const std::vector<PageRun> runs;
  std::atomic<size_t> taken = 0;
  std::atomic<uint64_t> sent = 0;  ///< bytes
};

class Lane {
 public:
  Lane(const std::vector<std::string>& rsh, const std::string& node);

  std::atomic<bool> stop = false;
  Transport transport;
  Wire wire;
  std::vector<PageRun> taken;  ///< of the round that goes on: not known to have arrived
  std::future<void> ready;     ///< valid: it is not known yet whether the destination takes it
  std::future<void> at_work;
  bool begun = false;
};

/// The source's end of them. For one thread at a time; but a lane is added by the thread whose end would end
/// it.
class Lanes {
 public:
  /// `fixed`: so many connections with the first one; 0: as many as pay.
  Lanes(std::vector<std::string> rsh, std::string node, const nlohmann::json& hello, unsigned fixed);
  /// The first connection stands.
  void open();
  Lanes(const Lanes&) = delete;
  Lanes& operator=(const Lanes&) = delete;
  ~Lanes();

  /// Each lane sends what it takes of `share`, in round `number`.
  void push(unsigned number, const std::map<pid_t, pid_t>& processes, const std::shared_ptr<Share>& share);
  /// Returns when they have, and gives what a lane had taken that was lost with it; so is one that has not
  /// finished after `patience`. `check` is called meanwhile, and may throw.
  std::vector<PageRun> end_round(const std::function<void()>& check, std::chrono::milliseconds patience);
  /// Each lane answers what the destination asks for, until that closes it.
  void serve(const std::map<pid_t, pid_t>& processes, std::function<void(uint64_t bytes)> served);
  /// Call it often, with what limits the first connection: adds a lane, where that pays, which takes part in
  /// what the others do.
  void grow(const std::optional<Load>& load);
  void close() noexcept;
  [[nodiscard]] uint64_t wire_bytes() const;
  [[nodiscard]] size_t size() const { return lanes_.size(); }
  /// How many have carried anything so far.
  [[nodiscard]] unsigned begun() const { return begun_; }

 private:
  using Work = std::function<void(Lane&)>;
  void add();
  void begin(Work work);
  void start_ready();
  std::list<Lane>::iterator drop(std::list<Lane>::iterator lane, const std::string& why);

  const std::vector<std::string> rsh_;
  const std::string node_;
  const std::string hello_;  ///< JSON
  const bool fixed_;
  unsigned most_;  ///< lanes, beside the first connection
  std::list<Lane> lanes_;
  Work work_;  ///< what they do now
  uint64_t dropped_bytes_ = 0;
  unsigned begun_ = 0;
};

}  // namespace migrate
