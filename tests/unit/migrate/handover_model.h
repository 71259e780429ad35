#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "migrate/rules.h"

/// One box, two or three nodes, and everything that can happen to them, as a set of states and steps that can
/// be searched completely. What is decided comes from migrate/rules.h; in what order the program writes,
/// syncs, freezes and lets go is told again here, step by step, as source.cc, destination.cc, arrival.cc and
/// settle.cc have it.
///
/// Stronger than the world: a message that was ever sent may arrive at any time later, as often as it likes,
/// or never; whoever waits for one may lose patience at any time; any command may be killed between any two
/// steps, and so may the bringer of a box's memory; a node may lose its power at any time and be back at
/// once, with or without what was not yet synced.
namespace model {

constexpr size_t kMaxNodes = 3, kMaxMoves = 3;
constexpr uint8_t kNobody = 255;

enum Process : uint8_t {
  kNone,
  kRuns,
  kFrozen,
  kSealed,  ///< CRIU has let go of it and the freezer does not have it yet: it may run, with its network shut
};

/// What a command is about to do.
enum Pc : uint8_t {
  kIdle,
  // the source: SourceNode, forget_box, keep_box
  kBegin,
  kBeginSync,
  kFreeze,
  kSendImages,
  kAwaitPrepared,
  kGive,
  kGiveSync,
  kCommit,
  kAwaitRunning,
  kAwaitMemory,
  kTell,
  kAwaitConfirmed,
  kForgetKill,
  kForgetNote,
  kForgetAway,
  kForgetSync,
  kKeepThaw,
  kKeepEnd,
  kKeepSync,
  // the destination: DestinationNode, drop_arrival, take_over
  kArrive,
  kArriveSync,
  kAwaitImages,
  kFreezeHere,
  kPrepare,
  kPrepareSync,
  kSayPrepared,
  kAwaitCommit,
  kAsk,
  kAwaitAnswer,
  kDropKill,
  kDropAway,
  kDropSync,
  kMine,
  kMineSync,
  kRun,
  kSayRunning,
  kName,
  kNameSync,
  kEnd,
  kEndSync,
  kStart,
  // the bringer of its memory: take_whole
  kWhole,
  kWholeSync,
  kRelease,
};

/// Messages of one move that have been sent: bits.
enum Message : uint16_t {
  kImagesSent = 1,
  kPreparedSent = 2,
  kCommitSent = 4,
  kRunningSent = 8,
  kAsked = 16,
  kAnsweredGiven = 32,
  kAnsweredKept = 64,
  kToldGiven = 128,
  kToldKept = 256,
  kConfirmed = 512,
  kWholeSent = 1024,
};

/// What a command does at its end, for somebody else.
enum Tail : uint8_t { kNoTail, kAnswerKept, kConfirm, kTellKept, kReceiver, kBringer };

/// The process that brings a box's memory (post-copy): it is not the one that holds the box's lock.
enum Bringer : uint8_t { kNoBringer, kFetches, kHasAll };

/// The state directory of a node, as far as it matters. A step is 0 for none, or a box::MoveStep and one.
struct Disk {
  uint8_t here, epoch, last_move, step, move, kept;        // boxes/NAME, with or without kept.journal
  uint8_t arriving, a_epoch, a_last_move, a_step, a_move;  // arriving/NAME
  uint8_t given, given_move;                               // given/UUID: as in it, and its move and one
  uint8_t destroyed;                                       // destroyed/UUID: the epoch in it
  bool operator==(const Disk&) const = default;
};

struct Node {
  Disk seen;  ///< what programs read
  Disk disk;  ///< what a power cut leaves
  Process process;
  Pc pc;  ///< of the one command that holds the box's lock
  uint8_t move;
  Tail tail;
  uint8_t taken;  ///< what take_over found: 0, or a migrate::Taken and one
  uint8_t lacks;  ///< memory of the process is still at the source
  Bringer brings;
  uint8_t guard;  ///< kills the process when the bringer ends too soon
  bool operator==(const Node&) const = default;
};

/// Bits of `State::wrong`.
enum Wrong : uint8_t { kMemoryForgotten = 1, kRunsWithoutBringer = 2 };

struct State {
  std::array<Node, kMaxNodes> nodes;
  std::array<uint16_t, kMaxMoves> sent;
  std::array<uint8_t, kMaxMoves> from, to, epoch;
  uint8_t moves;
  uint8_t given;      ///< bits: moves whose `given` is on the source's disk
  uint8_t owner;      ///< the one node that may run the box
  uint8_t destroyed;  ///< by an operator; 2: and the record of it could not be written
  uint8_t wrong;      ///< laws that were broken on the way: bits
  bool operator==(const State&) const = default;
};
static_assert(std::has_unique_object_representations_v<State>);

enum class Kind {
  kProgress,
  kGivesUp,   ///< an error, or patience that is over
  kFault,     ///< kill, power cut, a disk that fails
  kOperator,  ///< migrate, start, destroy
  kRecover,
};

struct Step {
  State next;
  Kind kind;
  uint8_t node;
  const char* what;
};

/// The rules, and the places where the order of the steps matters: what a mutation changes.
struct Protocol {
  migrate::Verdict (*whose)(const migrate::Holding&, uint64_t, bool) = migrate::whose;
  migrate::Decided (*decided)(const migrate::Holding&, migrate::Verdict, uint64_t) = migrate::decided;
  migrate::Fate (*fate_after)(migrate::Verdict) = migrate::fate_after;
  migrate::Resume (*resume_of_arriving)(std::optional<box::MoveStep>) = migrate::resume_of_arriving;
  migrate::Resume (*resume_of_box)(std::optional<box::MoveStep>) = migrate::resume_of_box;
  migrate::Taken (*goes_on)(box::MoveStep, bool, bool, bool) = migrate::goes_on;
  migrate::Verdict (*answer_after)(migrate::Taken) = migrate::answer_after;
  bool look_syncs = true;      ///< a `given` is brought to disk before it is told, and what recover acts on
  bool given_syncs = true;     ///< before commit is sent
  bool prepared_syncs = true;  ///< before prepared is sent
  bool mine_syncs = true;      ///< before the box runs
  bool doubt_is_given = true;  ///< a `given` that was written, and whose fsync failed, counts
  bool forget_waits = true;    ///< for the destination's word that the box runs
  bool memory_waits = true;    ///< the source's command, for the destination's word that it has all memory
  bool copy_waits = true;      ///< for the same, where recover tells that the box was given
  bool guarded = true;         ///< what lacks memory is killed when its bringer ends
  bool freezes_first = true;   ///< before `prepared`
  bool freezer_holds = true;   ///< not CRIU, which lets go when its command dies
  migrate::Fate lost =
      migrate::Fate::kStays;  ///< what a prepared destination does alone when the link is lost
};

struct Limits {
  size_t nodes = 2;
  uint8_t moves = 2;
  bool destroys = true;
  bool power_cuts = true;
  bool onward = false;  ///< the second move goes to the third node only
  bool lazy = false;    ///< post-copy: the memory follows
};

inline constexpr const char* kRecoverArriving = "runs recover on what was arriving";
inline constexpr const char* kRecoverBox = "runs recover on its box";

std::vector<Step> steps(const Protocol& protocol, const Limits& limits, const State& state);
State initial();
/// Empty, or which law this state breaks.
std::string broken(const Limits& limits, const State& state);
/// Where `recover` is run: on one node after the other, or on all at once.
enum class Order { kForward, kBackward, kAtOnce };
/// Empty, or what is wrong after all commands have ended and `recover` has been run on every node, twice.
std::string broken_in_the_end(const Protocol& protocol, const Limits& limits, State state, Order order,
                              std::vector<std::string>* trace);

struct Found {
  std::string law;  ///< empty: none is ever broken
  std::vector<std::string> trace;
  size_t states = 0;
};
/// Every state that can be reached, breadth first, so that a trace is as short as can be.
Found search(const Protocol& protocol, const Limits& limits);

}  // namespace model
