#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <memory>

#include "base/error.h"
#include "base/fd.h"
#include "box/box.h"
#include "box/network.h"
#include "box/runtime.h"
#include "box/volume.h"
#include "cli/nouns.h"
#include "cli/output.h"
#include "migrate/lanes.h"
#include "migrate/shelf.h"
#include "migrate/source.h"
#include "migrate/transport.h"

namespace cli {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> texts(const std::vector<box::Address>& addresses) {
  std::vector<std::string> out;
  for (const auto& a : addresses) out.push_back(a.to_string());
  return out;
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const auto& w : words) out += (out.empty() ? "" : " ") + w;
  return out;
}

Json as_json(const box::Status& s) {
  const box::Config& c = s.config;
  Json json = {{"name", c.name},
               {"state", box::to_string(s.state)},
               {"template", c.template_ref},
               {"addresses", texts(c.addresses)},
               {"mac", c.mac.to_string()},
               {"epoch", c.epoch},
               {"volume", box::volume_text(c.image_bytes)}};
  if (s.init) json["pid"] = s.init;
  if (!s.peer.empty()) json["peer"] = s.peer;
  return json;
}

void list(const Call& call) {
  const auto boxes = box::list(call.context);
  if (call.json) {
    Json out = Json::array();
    for (const auto& s : boxes) out.push_back(as_json(s));
    return print_json(out);
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& s : boxes)
    rows.push_back({s.config.name, std::string(box::to_string(s.state)), s.config.template_ref,
                    joined(texts(s.config.addresses)), std::to_string(s.config.epoch)});
  print(table({"NAME", "STATE", "TEMPLATE", "ADDRESSES", "EPOCH"}, rows));
}

void show(const Call& call, const std::string& name) {
  const box::Status s = box::status(call.context, name);
  Json json = as_json(s);
  json["gateways"] = texts(s.config.gateways);
  json["bridge"] = s.config.bridge;
  json["host_end"] = box::host_end_name(name);
  json["id_base"] = s.config.id_base;
  json["created"] = s.config.created;
  json["init"] = s.config.start.init;
  Json layers = Json::array();
  for (const auto& layer : s.config.layers) layers.push_back(layer.digest);
  json["layers"] = layers;
  if (call.json) return print_json(json);
  std::vector<std::vector<std::string>> rows;
  for (const auto& [key, value] : json.items()) {
    std::string text = value.is_string() ? value.get<std::string>() : value.dump();
    if (value.is_array()) text = joined(value.get<std::vector<std::string>>());
    rows.push_back({key, text});
  }
  print(table({"KEY", "VALUE"}, rows));
}

/// What `box migrate` was told about the freeze.
struct GoalWords {
  std::string mode = "auto";
  unsigned max_downtime_ms = 300;
  bool force = false;

  [[nodiscard]] migrate::Goal goal() const {
    if (max_downtime_ms < 1 || max_downtime_ms > migrate::kMostDowntimeMs)
      throw base::error("--max-downtime wants 1 to {} ms, not {}", migrate::kMostDowntimeMs, max_downtime_ms)
          .hint("see drover-node box migrate --help")
          .exit(base::Exit::kUsage);
    return {.mode = migrate::parse_mode(mode),
            .max_downtime_ms = static_cast<double>(max_downtime_ms),
            .force = force};
  }
};

void migrate_box(const Call& call, const migrate::MoveRequest& request) {
  migrate::Report report;
  report.from = base::read_file("/proc/sys/kernel/hostname");
  if (!report.from.empty() && report.from.back() == '\n') report.from.pop_back();
  try {
    migrate::move_box(call.context, request, report);
  } catch (const base::Error&) {
    if (call.json) print_json(report.json());
    throw;
  }
  if (call.json) return print_json(report.json());
  print(report.table());
}

void print_report(const Call& call, const migrate::FileReport& report) {
  if (call.json) return print_json(report.json());
  print(report.table());
}

void checkpoint_box(const Call& call, const migrate::CheckpointRequest& request) {
  migrate::FileReport report;
  migrate::checkpoint_box(call.context, request, report);
  print_report(call, report);
}

void restore_box(const Call& call, const migrate::RestoreFileRequest& request) {
  migrate::FileReport report;
  migrate::restore_box(call.context, request, report);
  print_report(call, report);
}

}  // namespace

void add_box_commands(Commands& commands) {
  auto name = std::make_shared<std::string>();
  auto with_name = [&](CLI::App& app) -> CLI::App& {
    app.add_option("NAME", *name, "the box")->required();
    return app;
  };

  auto request = std::make_shared<box::CreateRequest>();
  auto volume = std::make_shared<std::string>("dir");
  CLI::App& create = with_name(commands.add("create", "Create a box from a template", [=](const Call& call) {
    request->name = *name;
    request->image_bytes = box::parse_volume(*volume);
    const box::Config made = box::create(call.context, *request);
    if (call.json) return print_json(Json::parse(made.render()));
    print("box " + made.name + " from " + made.template_ref + ": " + joined(texts(made.addresses)) + ", " +
          made.mac.to_string() + "\n");
  }));
  create.add_option("--template", request->template_ref, "template, or template@version")->required();
  create.add_option("--ip", request->addresses, "address; again for each more")->required();
  create.add_option("--gateway", request->gateways, "default route; one for each family");
  create.add_option("--mac", request->mac, "MAC of eth0");
  create.add_option("--bridge", request->bridge, "bridge of this node");
  create.add_option("--volume", *volume, "dir, or image:SIZE: what its private layer lies in");

  with_name(commands.add("start", "Start a box", [=](const Call& call) { box::start(call.context, *name); }));

  auto timeout = std::make_shared<std::optional<unsigned>>();
  with_name(commands.add("stop", "Stop a box", [=](const Call& call) {
    std::optional<std::chrono::seconds> wait;
    if (*timeout) wait = std::chrono::seconds(**timeout);
    if (!box::stop(call.context, *name, wait))
      call.context.progress.note("box " + *name + " did not end by itself and was killed");
  })).add_option("--timeout", *timeout, "seconds until it is killed");

  commands.add("list", "List the boxes of this node", list);
  with_name(commands.add("show", "Show one box", [=](const Call& call) { show(call, *name); }));

  auto argv = std::make_shared<std::vector<std::string>>();
  CLI::App& exec = with_name(commands.add("exec", "Run a command in a box", [=](const Call& call) {
    if (argv->front() == "--") argv->erase(argv->begin());
    if (argv->empty())
      throw base::error("COMMAND is missing")
          .hint("see drover-node box exec --help")
          .exit(base::Exit::kUsage);
    call.exit_status = box::exec(call.context, *name, *argv);
  }));
  exec.add_option("COMMAND", *argv, "command and its arguments")->required();
  exec.positionals_at_end();  // options behind the command are the command's

  auto lines = std::make_shared<size_t>(100);
  with_name(commands.add("log", "Show what a box's init wrote", [=](const Call& call) {
    print(box::log_tail(call.context, *name, *lines));
  })).add_option("--lines,-n", *lines, "how many of the last lines; 0 for all");

  auto force = std::make_shared<bool>(false);
  with_name(commands.add("destroy", "Remove a box and all that it has written", [=](const Call& call) {
    box::destroy(call.context, *name, *force);
  })).add_flag("--force", *force, "also when it is running");

  auto moving = std::make_shared<migrate::MoveRequest>();
  auto rsh = std::make_shared<std::string>();
  auto goal = std::make_shared<GoalWords>();
  CLI::App& move =
      with_name(commands.add("migrate", "Move a running box to another node", [=](const Call& call) {
        moving->box = *name;
        moving->rsh = migrate::rsh_words(*rsh);
        moving->goal = goal->goal();
        migrate_box(call, *moving);
      }));
  move.add_option("--to", moving->to, "the other node, as ssh knows it")->required();
  move.add_option("--rsh", *rsh, "transport instead of ssh");
  move.add_option("--mode", goal->mode, "auto, precopy, postcopy, hybrid or stop: when its memory is sent");
  move.add_option("--max-downtime", goal->max_downtime_ms, "ms that it may be frozen for");
  move.add_option("--streams", moving->streams, "connections for its memory; otherwise as many as pay")
      ->check(CLI::Range(1U, migrate::kMostStreams));
  move.add_flag("--force", goal->force, "also when it will be frozen for longer");
  move.add_flag("--dry-run", moving->dry_run, "only print what the move would be");

  auto saving = std::make_shared<migrate::CheckpointRequest>();
  CLI::App& checkpoint = with_name(
      commands.add("checkpoint", "Save a running box with its memory to a file", [=](const Call& call) {
        saving->box = *name;
        checkpoint_box(call, *saving);
      }));
  checkpoint.add_option("FILE", saving->file, "the file to write")->required();
  checkpoint.add_flag("--stop", saving->stop, "afterwards the box is in the file only");

  auto restoring = std::make_shared<migrate::RestoreFileRequest>();
  CLI::App& restore = commands.add("restore", "Run a box again from a checkpoint's file",
                                   [=](const Call& call) { restore_box(call, *restoring); });
  restore.add_option("FILE", restoring->file, "what `box checkpoint` has written")->required();
  restore.add_flag("--force", restoring->force, "also when there is a newer one");
}

}  // namespace cli
