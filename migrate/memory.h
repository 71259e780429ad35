#pragma once
#include <nlohmann/json.hpp>
#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "base/context.h"
#include "migrate/dirty.h"
#include "migrate/lanes.h"
#include "migrate/pages.h"
#include "migrate/plan.h"
#include "migrate/transport.h"
#include "migrate/wire.h"

namespace migrate {

/// A box's memory takes a connection of its own, between the source's command and a process of its own on the
/// destination (`drover-node receive`).
///
///     source                          destination
///     kMemory            ──────────>  looks for the arriving box, starts the guard
///                        <──────────  kReady, and listens for CRIU
///     kRound             ──────────>  drops what it kept of some processes
///     kPages, kStale …   ──────────>  keeps them, drops them
///     kDataEnd           ──────────>
///                        <──────────  kRoundDone
///     … the last round is final: from then on, in a thread of the source's
///                        <──────────  kWant     runs of pages, the urgent ones first
///     kPages             ──────────>            from the restore on
///                        <──────────  kHere     the rest is at the destination, if not in the box
///                        <──────────  kWhole    in the destination's journal, too
///
/// Further connections beside it carry what nobody waits for (lanes.h).
///
/// When the connection breaks after the commit point, the destination makes one to the source, says kFetch,
/// and goes on: the memory is held by the frozen box, not by any process of ours.

/// What was written, in runs for the wire.
std::vector<PageRun> runs_of(const DirtyMemory::Written& written);

/// The source's side.
class MemoryServer {
 public:
  /// Connects; throws when the other side is not ready for this move. `bytes`: of the box's memory.
  /// `streams`: over so many connections; 0: as many as pay.
  MemoryServer(const std::vector<std::string>& rsh, const std::string& node, const std::string& id,
               const std::string& box, uint64_t bytes, unsigned streams);
  MemoryServer(const MemoryServer&) = delete;
  MemoryServer& operator=(const MemoryServer&) = delete;
  ~MemoryServer();
  /// A round while the box runs: sends what was written, and returns when the destination has it.
  /// `processes`: pid in the box → process here. `sent` hears of every piece. Afterwards `written` is what
  /// has to be sent once more, since a connection other than the first one was lost.
  Sent push(const std::map<pid_t, pid_t>& processes, DirtyMemory::Written& written,
            const std::function<void(uint64_t)>& sent);
  /// The last round, of the frozen box, and then what the destination asks for: in a thread. Without
  /// `push_rest` the destination only hears what it must not use any more.
  void serve(std::map<pid_t, pid_t> processes, DirtyMemory::Written written, bool push_rest);
  /// Returns when the destination knows which memory it has is right, and with `everything` when it has all;
  /// throws when that is not before the deadline.
  void wait(bool everything, std::chrono::steady_clock::time_point deadline);
  /// Throws when the connection is closed or its thread has failed, as far as that is known here. Does not
  /// wait.
  void require_connection();
  /// The connection is lost, and not all is there: the destination fetches the rest by itself.
  [[nodiscard]] bool fetched_otherwise();
  /// Waits until the box has everything; returns how many bytes that took since the freeze. Throws with a
  /// hint for the operator when the connection breaks.
  uint64_t finish(base::Progress& progress);
  /// Ends what still goes on; afterwards the two below are final.
  void close() noexcept;
  [[nodiscard]] uint64_t wire_bytes() const { return wire_->wire_bytes() + lanes_.wire_bytes(); }
  void pass_on_warnings() const { transport_.pass_on_warnings(); }
  /// Connections that have carried memory.
  [[nodiscard]] unsigned streams() const { return 1 + lanes_.begun(); }

 private:
  enum class Stage { kRounds, kFinal, kHere };
  void begin_round(const DirtyMemory::Written& written, bool final, bool at_once);
  void end_round();
  void push_last(PageSender& sender, const std::map<pid_t, pid_t>& processes, std::vector<PageRun> runs);
  void reach(Stage stage);
  bool tell_stall(std::chrono::steady_clock::time_point since);

  std::string node_, box_;
  const std::chrono::milliseconds placing_;  ///< for the destination to put all in place
  Transport transport_;
  std::unique_ptr<Wire> wire_;
  Lanes lanes_;
  LoadMeter meter_;
  unsigned round_ = 0;
  std::atomic<uint64_t> served_ = 0;
  std::atomic<bool> stop_ = false;
  std::mutex mutex_;
  std::condition_variable reached_;
  Stage stage_ = Stage::kRounds;  ///< of the destination
  std::future<void> done_;
};

/// kMemory: brings the memory of a box that is on its way here, however long it takes.
void bring_memory(const base::Context& context, Wire& wire, const nlohmann::json& hello);
/// kFetch: serves the memory of a box that was given away.
void answer_fetch(const base::Context& context, Wire& wire, const nlohmann::json& hello);

}  // namespace migrate
