#pragma once
#include <nlohmann/json_fwd.hpp>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <shared_mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/context.h"
#include "base/fd.h"
#include "migrate/asked.h"
#include "migrate/pages.h"
#include "migrate/store.h"
#include "migrate/wire.h"

namespace migrate {

inline constexpr const char* kLanesSocket = "lanes.socket";  ///< in RUN/boxes/NAME, while a box arrives

/// The destination's end of the lanes (lanes.h). Each is a connection that another `drover-node receive` was
/// asked to be one, and has handed over; it gets a thread here that reads and unpacks. Into the box's memory
/// only the pager itself puts anything: for its one thread are all calls of this class.
///
/// A lane may be lost at any moment, and what it was to bring comes another way. So what comes late must not
/// do harm: pushed pages are kept only in the round that they belong to, and others only where they were
/// asked for on this lane.
class ArrivingLanes {
 public:
  /// Listens in `work`. What is pushed goes to `kept`.
  ArrivingLanes(const std::string& work, Store& kept);
  ArrivingLanes(const ArrivingLanes&) = delete;
  ArrivingLanes& operator=(const ArrivingLanes&) = delete;
  ~ArrivingLanes();

  [[nodiscard]] int listener() const { return listener_.get(); }  ///< readable: accept() one
  void accept();
  /// The next round begins with `change`; no lane adds to what is kept during that.
  void begin_round(const std::function<void()>& change);
  /// The final one is over: from now on no lane adds to what is kept.
  void end_rounds();

  [[nodiscard]] int arrivals() const { return arrivals_.get(); }  ///< readable: take() something
  /// Gives what has come since, and lets go of lanes that are lost: what was asked for on them is not any
  /// more.
  void take(const std::function<void(const Pages&)>& give);
  /// Where to ask for something next, and not more than `most` bytes at once; nullptr: nowhere.
  Asked* room(uint64_t most);
  void send_wants();
  [[nodiscard]] uint64_t asked_bytes() const;
  void close();

 private:
  struct Lane {
    base::Fd helper, in, out;  ///< the process that has it lives as long as the first is open
    base::Fd wake;             ///< of its thread
    // The pager's:
    Asked asked;
    std::chrono::steady_clock::time_point heard{};
    // Of both, by mutex_:
    std::vector<PageRun> to_ask;
    std::vector<Pages> arrived;
    uint64_t due = 0;  ///< bytes that were asked for
    bool ended = false;
    std::atomic<bool> stop = false;
    std::jthread thread;
  };
  void work(Lane& lane);
  void serve(Lane& lane, Wire& wire);
  void join_round(Lane& lane, uint64_t number);
  void keep(uint64_t round, const Pages& pages);
  void arrived(Lane& lane, Pages pages);
  void stop(Lane& lane);

  Store& kept_;
  base::Fd listener_, arrivals_;
  std::mutex mutex_;
  std::list<Lane> lanes_;
  // Shared by who keeps something; alone who begins a round.
  std::shared_mutex fence_;
  std::condition_variable_any begun_;
  uint64_t round_ = 0;
};

/// kLane: hands the connection to the process that brings the memory of this move, and waits until that does
/// not need it any more.
void join_memory(const base::Context& context, const nlohmann::json& hello, int in, int out);

}  // namespace migrate
