#pragma once
#include <nlohmann/json_fwd.hpp>

#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>

#include "base/child.h"
#include "base/fd.h"
#include "migrate/arriving_lanes.h"
#include "migrate/asked.h"
#include "migrate/lazy_space.h"
#include "migrate/page_set.h"
#include "migrate/pages.h"
#include "migrate/store.h"
#include "migrate/wire.h"

namespace migrate {

/// Keeps what the source pushes of a box's memory before the box is here. Then gives the box its memory, also
/// while it runs already: answers its page faults (userfaultfd(2)) with what it has kept or else asks the
/// source for, and gives and fetches the rest meanwhile. For one thread, which also has the wire; lanes
/// have their own.
///
/// Nobody but this process and its guard holds the descriptors that keep missing pages from
/// reading as zeros: with both gone the box would go on with wrong memory. The guard, a process of its
/// own, kills the box when it outlives this one.
class Pager {
 public:
  /// Listens in `work` for CRIU's restore of `images`. `cgroup` is what the guard kills.
  Pager(const std::string& work, std::string images, const std::string& cgroup);
  Pager(const Pager&) = delete;
  Pager& operator=(const Pager&) = delete;
  ~Pager();

  /// Works until all has arrived. Throws when the connection fails or is silent while it is needed: it may be
  /// called again with another one.
  void run(Wire& wire);
  /// CRIU has handed over every task.
  [[nodiscard]] bool restored() const { return restored_at_.has_value(); }
  /// Nothing is wanted of the source any more.
  [[nodiscard]] bool here() const;
  /// After a connection broke: what was asked for on it is asked for again.
  void ask_again();
  [[nodiscard]] bool whole() const;
  /// All is here. Whoever touches new memory, or forks, still waits for an answer: has them for so long a
  /// time.
  void attend(std::chrono::milliseconds time);
  /// All is here: the guard may go.
  void finish();
  /// After it: what was asked for and is not needed any more, as the box has unmapped it. Who sends that
  /// would take a closed connection for a broken one.
  void take_the_rest(Wire& wire);

 private:
  /// And how far it has got in one.
  struct Space : LazySpace {
    uint64_t asked = 0;      ///< up to where the source was asked ahead
    bool asked_all = false;  ///< what is missing has been kept
    uint64_t given = 0;      ///< up to where it was given what was kept
    bool given_all = false;  ///< what is missing comes from the source
  };
  using Clock = std::chrono::steady_clock;

  [[nodiscard]] bool past_head_start() const;
  /// Nothing is given ahead of need now.
  [[nodiscard]] bool box_goes_first() const;
  void take(Wire& wire, const Message& message);
  void begin_round(const nlohmann::json& round);
  void end_round(Wire& wire);
  void tell_here(Wire& wire);
  void take_space();
  void add_space(uint32_t pid, base::Fd fault, PageSet missing);
  void drain(Space& space);
  void drain_all();
  void on_fault(Space& space, uint64_t address);
  void arrived(const Pages& pages);
  void give(const Pages& pages);
  bool give_kept(const Space& space, uint64_t begin, uint64_t end);
  bool give_ahead();
  /// Where to ask for something that nobody waits for.
  Asked* room(uint64_t ahead) { return asked_.bytes() < ahead ? &asked_ : lanes_.room(ahead); }
  void ask_ahead();
  void ask_ahead(Space& space, uint64_t ahead);

  std::string images_;
  Store kept_;
  ArrivingLanes lanes_;
  bool in_round_ = false, final_round_ = false;  ///< what comes is pushed, and kept
  bool final_ = false;    ///< what is kept is right: the source has said what was written up to the freeze
  bool at_once_ = false;  ///< the source waits for us to have everything
  bool told_here_ = false;
  base::Fd listener_, restorer_;
  std::map<uint32_t, PageSet> lazy_;  ///< of processes that CRIU has not restored yet
  std::deque<Space> spaces_;          ///< a fork adds at the end
  Asked asked_;
  std::optional<Clock::time_point> restored_at_;
  Clock::time_point last_fault_{}, last_data_{};
  base::Fd guard_;
  std::optional<base::Child> guard_process_;
};

}  // namespace migrate
