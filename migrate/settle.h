#pragma once
#include <nlohmann/json.hpp>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/context.h"
#include "box/box.h"
#include "box/ownership.h"
#include "migrate/wire.h"

namespace migrate {

/// How a move that was cut off is finished or reversed. The source's journal is the only judge:
///
///     source's journal     destination's journal     outcome
///     leaving              any                       the box stays at the source
///     given                prepared, mine            the box is the destination's
///     gone, box is here    prepared                  it had been settled: stays at the source
///     gone, so is the box  prepared                  the same, where STATE/given or STATE/destroyed shows it
///
/// Either end can begin. The destination asks the source (kAsk) and does what it says; the source
/// tells the destination (kSettle) what was decided. An answer that cannot be had leaves everything
/// frozen, and is asked for again by the next `recover`.

struct Settled {
  std::string box;
  std::string what;   ///< one sentence for the operator
  bool open = false;  ///< still not decided: run recover again
};

/// What a person says of a box whose other node has no word on it, or does not answer. A word that can be had
/// counts more.
enum class Ruling {
  kNone,
  kTake,  ///< it is this node's
  kDrop,  ///< what is here of it goes
};

/// `drover-node recover`: goes over every unfinished move on this node, or over that of one box.
std::vector<Settled> recover(const base::Context& context, const std::vector<std::string>& rsh,
                             const std::optional<std::string>& only = {}, Ruling ruling = Ruling::kNone);

/// The destination's side: asks the source until it knows, or until `patience` is over. True: the box is
/// ours. False: it is dropped, or it stays frozen because there is no answer.
bool ask_source(const base::Context& context, const box::Paths& paths, const box::Move& move,
                const box::Config& config, std::chrono::milliseconds patience);
/// How long the receiving process asks by itself before it leaves it to `recover`.
std::chrono::milliseconds ask_patience();

/// The source's side: the box was given; tells the destination until it has confirmed, or until `patience`
/// is over. True: it runs there. `in_the_way`: the destination has to fetch memory, which it can only while
/// nobody here holds the box's lock; then it is told once.
bool tell_destination(const base::Context& context, const box::Move& move, const std::string& name,
                      std::chrono::milliseconds patience, const std::function<bool()>& in_the_way);

/// What `receive` does with the other node's question or decision.
void answer_question(const base::Context& context, Wire& wire, const nlohmann::json& question);
void answer_decision(const base::Context& context, Wire& wire, const nlohmann::json& decision);

}  // namespace migrate
