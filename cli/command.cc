#include "cli/command.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <span>

#include "base/error.h"
#include "base/log.h"
#include "base/progress.h"
#include "base/text.h"
#include "cli/man.h"
#include "cli/output.h"
#include "cli/places.h"

namespace cli {
namespace {

struct Globals {
  bool json = false;
  bool verbose = false;
  std::string state_dir;
  std::string run_dir;
};

/// The command that was named, as far as it was understood: "drover-node box create".
std::string named(const CLI::App& app) {
  auto chosen = app.get_subcommands();
  return app.get_name() + (chosen.empty() ? "" : " " + named(*chosen.front()));
}

const CLI::App& innermost(const CLI::App& app) {
  auto chosen = app.get_subcommands();
  return chosen.empty() ? app : innermost(*chosen.front());
}

std::vector<const CLI::App*> commands_of(const CLI::App& app) {
  return app.get_subcommands([](const CLI::App*) { return true; });
}

constexpr size_t kLongLine = 100;  // columns: longer ones are hard to read

void help(const CLI::App& app) {
  std::string command = named(app);
  const CLI::App& called = innermost(app);
  std::string text;
  if (auto page = find_page(command))
    text = rendered(*page, ::isatty(STDOUT_FILENO) == 1,
                    std::min(base::terminal_columns(STDOUT_FILENO), kLongLine));
  else if (commands_of(called).empty())
    text = called.help(command.substr(0, command.rfind(' ')));
  else
    text = command + "\n\n    " + called.get_description() + "\n";

  std::vector<std::vector<std::string>> rows;
  for (const CLI::App* sub : commands_of(called))
    rows.push_back({"    " + command + " " + sub->get_name(), sub->get_description()});
  print(text + (rows.empty() ? "" : "\n" + table({"COMMANDS", ""}, rows)));
}

/// CLI11's exception as one sentence of ours.
std::string sentence(const CLI::ParseError& e, const CLI::App& app) {
  const CLI::App& command = innermost(app);
  auto extras = app.remaining(true);
  std::string text = e.what();
  bool wants_command = !commands_of(command).empty();
  if (!extras.empty() && extras.front().starts_with("-")) return "unknown option " + extras.front();
  if (!extras.empty() && wants_command) return "unknown command " + named(app) + " " + extras.front();
  if (!extras.empty()) return "unexpected argument " + base::quoted({extras.front()});
  if (e.get_name() == "ArgumentMismatch" && text.contains(" required "))
    return text.substr(0, text.find(':')) + " needs a value";
  if (constexpr std::string_view kNoNumber = "Could not convert: ";
      e.get_name() == "ConversionError" && text.starts_with(kNoNumber))
    if (auto equals = text.find(" = "); equals != std::string::npos)
      return text.substr(kNoNumber.size(), equals - kNoNumber.size()) + " wants a number, not '" +
             text.substr(equals + 3) + "'";
  if (e.get_name() == "RequiredError" && wants_command) return named(app) + " needs a command";
  if (text.ends_with(" is required")) return text.substr(0, text.size() - 12) + " is missing";
  if (text.size() > 1 && std::islower(text[1]) != 0) text[0] = static_cast<char>(std::tolower(text[0]));
  return text;
}

/// What was meant by a word that is no command or option, or where to read on.
std::string hint(const CLI::App& app) {
  const CLI::App& command = innermost(app);
  auto extras = app.remaining(true);
  if (!extras.empty()) {
    const std::string& word = extras.front();
    std::vector<std::string> known;
    for (const CLI::App* sub : commands_of(command)) known.push_back(sub->get_name());
    for (const CLI::App* owner : {&command, &app})
      for (const CLI::Option* option : owner->get_options())
        for (const std::string& name : option->get_lnames()) known.push_back("--" + name);
    if (std::string close = base::closest(word, known); !close.empty())
      return "did you mean " + (close.starts_with("-") ? "" : named(app) + " ") + close + "?";
    // "drover box": the noun of a node's program, and the other way round.
    std::string other = app.get_name() == "drover" ? "drover-node" : "drover";
    auto is_there = [start = other + "-" + word + "-"](const Page& page) {
      return (std::string(page.name) + "-").starts_with(start);
    };
    if (&command == &app && std::ranges::any_of(pages(), is_there))
      return "did you mean " + other + " " + word + "?";
  }
  return "see " + named(app) + " --help";
}

/// One command a line, behind a tab its arguments and options: for shell completion, and for
/// the test that each of them stands in the command's page.
void list_commands(const CLI::App& app, const std::string& command) {
  for (const CLI::App* sub : commands_of(app)) list_commands(*sub, command + " " + sub->get_name());
  if (!commands_of(app).empty()) return;
  std::string options;
  for (const CLI::Option* option : app.get_options()) {
    if (option == app.get_help_ptr()) continue;
    options += (options.empty() ? "" : " ") + option->get_name(/*positional=*/option->get_positional());
  }
  print(command + "\t" + options + "\n");
}

void declare_globals(CLI::App& app, Globals& globals) {
  app.fallthrough();  // global options may stand behind the command
  app.set_version_flag("--version", app.get_name() + " " + version());
  app.add_flag("--json", globals.json, "one JSON document on stdout, JSON lines on stderr");
  app.add_flag("-v,--verbose", globals.verbose, "log each command that is run");
  app.add_option("--state-dir", globals.state_dir, "what is kept over reboots")->capture_default_str();
  app.add_option("--run-dir", globals.run_dir, "what is gone after a reboot")->capture_default_str();
  app.set_help_all_flag("--list-commands", "print every command, for shell completion");
}

void declare_commands(CLI::App& app, const Program& program, Commands::Run& chosen) {
  for (const Noun& noun : program.nouns) {
    CLI::App* parent = noun.name.empty() ? &app : app.add_subcommand(noun.name, noun.summary);
    Commands commands(*parent, chosen);
    noun.add(commands);
    parent->require_subcommand(1);
  }
  app.require_subcommand(1);
}

/// Everything that the command reports to or asks of.
int run_command(const Commands::Run& command, const Globals& globals) {
  base::set_verbose(globals.verbose);
  base::set_log_json(globals.json);
  base::install_interrupt_handler();
  base::ProcessRunner runner(globals.verbose);
  base::Clock clock;
  auto progress = base::make_progress(base::default_talk(globals.json));
  base::Context context = {.runner = runner,
                           .progress = *progress,
                           .clock = clock,
                           .state_dir = globals.state_dir,
                           .run_dir = globals.run_dir};
  int exit_status = static_cast<int>(base::Exit::kDone);
  command({.context = context, .json = globals.json, .exit_status = exit_status});
  return exit_status;
}

/// As far as a command line that was not understood can tell.
bool wants_json(int argc, const char* const* argv) {
  const std::span words(argv, static_cast<size_t>(argc));
  return std::ranges::contains(words.begin(), std::ranges::find(words, std::string_view("--")),
                               std::string_view("--json"));
}

int understand_and_run(const Program& program, int argc, const char* const* argv, Globals& globals) {
  CLI::App app(program.summary, program.name);
  Commands::Run chosen;
  declare_globals(app, globals);
  declare_commands(app, program, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp&) {
    help(app);
    return static_cast<int>(base::Exit::kDone);
  } catch (const CLI::CallForAllHelp&) {
    list_commands(app, program.name);
    return static_cast<int>(base::Exit::kDone);
  } catch (const CLI::CallForVersion& e) {
    print(e.what() + std::string("\n"));
    return static_cast<int>(base::Exit::kDone);
  } catch (const CLI::ParseError& e) {
    globals.json = globals.json || wants_json(argc, argv);  // CLI11 may have given up before it set it
    throw base::Error(sentence(e, app)).hint(hint(app)).exit(base::Exit::kUsage);
  }
  return run_command(chosen, globals);
}

int report(const base::Error& e, bool json) {
  int status = static_cast<int>(e.exit());
  std::string text = e.render();
  if (json) {
    nlohmann::ordered_json line = {{"error", e.message()}, {"while", e.contexts()}, {"exit", status}};
    if (!e.hint().empty()) line["hint"] = e.hint();
    text = line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  [[maybe_unused]] ssize_t written = ::write(STDERR_FILENO, text.data(), text.size());
  return status;
}

}  // namespace

CLI::App& Commands::add(std::string name, std::string summary, Run run) {
  CLI::App& command = *app_.add_subcommand(std::move(name), std::move(summary));
  command.set_help_all_flag();  // the program's alone
  command.callback([&chosen = chosen_, run = std::move(run)] { chosen = run; });
  return command;
}

std::string version() { return DROVER_VERSION; }

int run(const Program& program, int argc, const char* const* argv) {
  // A reader of our output that goes away must not end us in the middle of an operation.
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGCHLD, SIG_DFL);  // whoever started us may ignore it: then no child could be waited for
  const Places& places = program.for_users ? own_places() : system_places();
  Globals globals = {.state_dir = places.state_dir, .run_dir = places.run_dir};
  try {
    return understand_and_run(program, argc, argv, globals);
  } catch (const base::Error& e) {
    return report(e, globals.json);
  } catch (const std::exception& e) {
    return report(base::error("this is a defect of {}: {}", program.name, e.what()), globals.json);
  }
}

}  // namespace cli
