#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <sys/statvfs.h>

#include <chrono>
#include <memory>

#include "base/error.h"
#include "base/fd.h"
#include "bootstrap/kernel_line.h"
#include "bootstrap/node_slots.h"
#include "bootstrap/release.h"
#include "cli/command.h"
#include "cli/nouns.h"
#include "cli/output.h"
#include "image/slot_file.h"

namespace cli {
namespace {

using image::Slot;
using nlohmann::ordered_json;

struct Options {
  std::string state = std::string(bootstrap::kSlotState);
  std::string health = std::string(bootstrap::kHealthFile);
  std::string slot;  ///< of the command line; empty: the running one
  int tries = 1;
  bool no_reboot = false;
  bool once = false;
};

std::string kernel_line() { return base::read_file("/proc/cmdline"); }

bootstrap::Slots slots_of(const Options& options) {
  bootstrap::Slots slots = {.state_file = options.state, .running = {}};
  slots.running = options.slot.empty() ? bootstrap::running_slot(kernel_line())
                                       : std::optional(bootstrap::parse_slot(options.slot));
  return slots;
}

Slot named_or_running(const Options& options) {
  auto slot = slots_of(options).running;
  if (!slot)
    throw base::error("this system was not started from a slot: name one, a or b").exit(base::Exit::kUsage);
  return *slot;
}

std::string_view word(image::Health health) {
  switch (health) {
    case image::Health::kBad:
      return "bad";
    case image::Health::kTrial:
      return "trial";
    case image::Health::kConfirmed:
      return "confirmed";
  }
  return "bad";
}

ordered_json as_json(const image::SlotState& state, std::optional<Slot> running) {
  auto list = ordered_json::array();
  for (Slot slot : {Slot::kA, Slot::kB})
    list.push_back({{"slot", image::name(slot)},
                    {"health", word(state.at(slot).health)},
                    {"tries", state.at(slot).tries},
                    {"first", state.first == slot},
                    {"running", running == slot}});
  return list;
}

void list(const Call& call, const Options& options) {
  image::SlotState state = image::read_slot_state(options.state);
  std::optional<Slot> running = bootstrap::running_slot(kernel_line());
  if (call.json) return print_json(as_json(state, running));
  std::vector<std::vector<std::string>> rows;
  for (Slot slot : {Slot::kA, Slot::kB})
    rows.push_back({std::string(image::name(slot)), std::string(word(state.at(slot).health)),
                    std::to_string(state.at(slot).tries), state.first == slot ? "yes" : "",
                    running == slot ? "yes" : ""});
  print(table({"SLOT", "HEALTH", "TRIES", "FIRST", "RUNNING"}, rows));
}

void confirm_slot(const Call& call, const Options& options) {
  Slot slot = named_or_running(options);
  bootstrap::change_slots(call.context, options.state,
                          [&](const auto& state) { return state.confirm(slot); });
}

void mark_bad(const Call& call, const Options& options) {
  Slot slot = bootstrap::parse_slot(options.slot);
  bootstrap::change_slots(call.context, options.state,
                          [&](const auto& state) { return state.mark_bad(slot); });
}

void activate(const Call& call, const Options& options) {
  Slot slot = bootstrap::parse_slot(options.slot);
  bootstrap::change_slots(call.context, options.state,
                          [&](const auto& state) { return state.activate(slot, options.tries); });
}

ordered_json as_json(const std::vector<bootstrap::CheckResult>& results) {
  auto list = ordered_json::array();
  for (const auto& result : results) {
    ordered_json entry = {{"name", result.name}, {"good", result.good}};
    if (!result.said.empty()) entry["said"] = result.said;
    list.push_back(entry);
  }
  return list;
}

std::string sentence(const bootstrap::CheckResult& result) {
  return result.name + ": " + (result.good ? "good" : result.said) + "\n";
}

/// There once this boot's slot has been judged healthy.
std::string mark_of(const Call& call) { return call.context.run_dir + "/confirmed"; }

void confirm(const Call& call, const Options& options) {
  if (options.once && base::exists(mark_of(call))) return;
  bootstrap::Slots slots = slots_of(options);
  bootstrap::Health health = bootstrap::look_at_health(call.context, options.health);
  bootstrap::Verdict verdict = bootstrap::judge(call.context, slots, health.good());
  const std::string slot(image::name(*slots.running));
  const bool confirmed = verdict == bootstrap::Verdict::kConfirmed;
  const bool reboots = verdict == bootstrap::Verdict::kMarkedBad && !options.no_reboot;
  const std::string text =
      confirmed ? "slot " + slot + " is healthy, and confirmed"
      : verdict == bootstrap::Verdict::kMarkedBad
          ? "slot " + slot + " is not healthy, and marked bad: the other slot boots next"
      : verdict == bootstrap::Verdict::kProven
          ? "slot " + slot + " is not healthy, and stays: it was healthy in an earlier boot"
          : "slot " + slot + " is not healthy, and stays: no other slot is confirmed and boots";
  if (call.json) {
    print_json({{"slot", slot},
                {"checks", as_json(health.results)},
                {"confirmed", confirmed},
                {"marked_bad", verdict == bootstrap::Verdict::kMarkedBad},
                {"reboots", reboots}});
  } else {
    for (const auto& result : health.results)
      if (!result.good) print(sentence(result));
    print(text + "\n");
  }
  if (confirmed) {
    base::make_directories(call.context.run_dir);
    base::write_file(mark_of(call), "");
  } else {
    call.exit_status = static_cast<int>(base::Exit::kFailed);
  }
  if (reboots) call.context.runner.run({.argv = {"systemctl", "reboot"}});
}

struct Space {
  uint64_t total = 0, free = 0;
};
Space space_of(const std::string& path) {
  struct statvfs about = {};
  if (::statvfs(path.c_str(), &about) != 0) throw base::sys_error("cannot look at {}", path);
  return {.total = about.f_blocks * about.f_frsize, .free = about.f_bavail * about.f_frsize};
}

void status(const Call& call, const Options& options) {
  const std::string line = kernel_line();
  std::optional<Slot> running = bootstrap::running_slot(line);
  bootstrap::Release release = bootstrap::read_release("/etc");
  auto verity = bootstrap::verity_of("/");
  Space space = space_of(call.context.state_dir);
  bootstrap::Health health = bootstrap::look_at_health(call.context, options.health);
  std::optional<image::SlotState> state;
  const bool network = bootstrap::booted_from_network(line);
  if (!network) try {
      state = image::read_slot_state(options.state);
      if (running && state->at(*running).health != image::Health::kConfirmed)
        health.results.push_back(
            {.name = "slot", .good = false, .said = "the running slot is not confirmed"});
    } catch (const base::Error& error) {
      health.results.push_back({.name = "slot", .good = false, .said = error.message()});
    }
  if (!health.good()) call.exit_status = static_cast<int>(base::Exit::kFailed);
  const std::string root = !verity ? "not verified" : verity->verified ? "verified" : "corrupted";

  if (call.json) {
    print_json(
        {{"healthy", health.good()},
         {"slot", running ? ordered_json(image::name(*running)) : ordered_json()},
         {"slots", state ? as_json(*state, running) : ordered_json()},
         {"image", {{"name", release.name}, {"version", release.version}}},
         {"root", {{"state", root}, {"hash", verity ? ordered_json(verity->root_hash) : ordered_json()}}},
         {"data", {{"path", call.context.state_dir}, {"bytes", space.total}, {"free", space.free}}},
         {"checks", as_json(health.results)}});
    return;
  }
  constexpr int kMiB = 20;
  print(table({"WHAT", "VALUE"},
              {{"node", health.good() ? "healthy" : "not healthy"},
               {"image", release.name + (release.version.empty() ? "" : " " + release.version)},
               {"slot", running   ? std::string(image::name(*running))
                        : network ? "none: started from the network"
                                  : "none"},
               {"root", root + (verity ? ", hash " + verity->root_hash : "")},
               {"data", std::format("{} of {} MiB free", space.free >> kMiB, space.total >> kMiB)}}));
  if (state) {
    print("\n");
    list(call, options);
  }
  print("\n");
  for (const auto& result : health.results) print(sentence(result));
}

void add_state_option(CLI::App& command, Options& options) {
  command.add_option("--slot-state", options.state, "the file of the slots' state")->capture_default_str();
}

}  // namespace

void add_slot_commands(Commands& commands) {
  auto options = std::make_shared<Options>();
  add_state_option(
      commands.add("list", "The two slots of this node", [=](const Call& call) { list(call, *options); }),
      *options);
  struct Verb {
    const char* name;
    const char* summary;
    void (*run)(const Call&, const Options&);
    bool needs_slot;
  };
  for (const Verb& verb : {Verb{"confirm", "A slot is healthy, by your word", confirm_slot, false},
                           Verb{"mark-bad", "A slot is not to boot", mark_bad, true},
                           Verb{"activate", "A slot has been written, and boots next", activate, true}}) {
    CLI::App& command =
        commands.add(verb.name, verb.summary, [=](const Call& call) { verb.run(call, *options); });
    command.add_option("SLOT", options->slot, "a or b")->required(verb.needs_slot);
    add_state_option(command, *options);
    if (verb.run == activate)
      command.add_option("--tries", options->tries, "how often the loader starts it before it is confirmed")
          ->capture_default_str();
  }
}

void add_health_commands(Commands& commands) {
  auto options = std::make_shared<Options>();
  auto add = [&](const char* name, const char* summary, auto run) -> CLI::App& {
    CLI::App& command = commands.add(name, summary, [=](const Call& call) { run(call, *options); });
    add_state_option(command, *options);
    command.add_option("--health", options->health, "the file of the checks")->capture_default_str();
    return command;
  };
  add("status", "How this node is", status);
  CLI::App& command = add("confirm", "Check the node's health, and confirm its slot or go back", confirm);
  command.add_option("--slot", options->slot, "the slot that is judged, instead of the running one");
  command.add_flag("--no-reboot", options->no_reboot, "where the slot is marked bad, leave it running");
  command.add_flag("--once", options->once, "do nothing where this boot's slot is confirmed already");
}

}  // namespace cli
