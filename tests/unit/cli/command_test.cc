#include "cli/command.h"

#include <CLI/CLI.hpp>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "base/error.h"

namespace cli {
namespace {

std::string ran;  // what the last command was, and what it was given

void add_box_commands(Commands& box) {
  struct Create {
    std::string name;
    int count = 1;
  };
  auto options = std::make_shared<Create>();
  CLI::App& create = box.add("create", "Make a box", [options](const Call& call) {
    ran = std::format("create {} {} {} {} {}", options->name, options->count, call.json,
                      call.context.state_dir, call.context.run_dir);
  });
  create.add_option("NAME", options->name)->required();
  create.add_option("--count", options->count);
  box.add("fail", "Fail", [](const Call&) {
    throw base::error("it broke").context("moving box web1").hint("mend it").exit(base::Exit::kRolledBack);
  });
  box.add("crash", "Fail in no way that was thought of", [](const Call&) { throw std::out_of_range("at"); });
}

void add_recover(Commands& top) {
  top.add("recover", "Finish what a crash left", [](const Call&) { ran = "recover"; });
}

struct Outcome {
  int status;
  std::string out, err;
};

Outcome run_program(std::vector<const char*> arguments) {
  const Program program = {.name = "drover-test",
                           .summary = "a program",
                           .nouns = {{"box", "private servers", add_box_commands}, {"", "", add_recover}}};
  ran.clear();
  arguments.insert(arguments.begin(), "drover-test");
  testing::internal::CaptureStdout();
  testing::internal::CaptureStderr();
  int status = run(program, static_cast<int>(arguments.size()), arguments.data());
  return {.status = status,
          .out = testing::internal::GetCapturedStdout(),
          .err = testing::internal::GetCapturedStderr()};
}

void expect_usage_error(const std::vector<const char*>& arguments, const std::string& sentence,
                        const std::string& command) {
  Outcome outcome = run_program(arguments);
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.err, "error: " + sentence + "\nhint: see " + command + " --help\n");
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(ran, "") << "a command that was not understood ran";
}

TEST(Command, RunsWithItsOptions) {
  EXPECT_EQ(run_program({"box", "create", "web1", "--count", "3"}).status, 0);
  EXPECT_EQ(ran, "create web1 3 false /var/lib/drover /run/drover");
  EXPECT_EQ(run_program({"recover"}).status, 0);
  EXPECT_EQ(ran, "recover");
}

TEST(Command, GlobalOptionsStandAnywhere) {
  run_program({"--state-dir", "/s", "box", "create", "web1", "--json", "--run-dir=/r"});
  EXPECT_EQ(ran, "create web1 1 true /s /r");
}

TEST(Command, ABoxMayBeNamedAsACommand) {
  run_program({"box", "create", "recover"});
  EXPECT_EQ(ran, "create recover 1 false /var/lib/drover /run/drover");
}

TEST(Command, UsageErrorsAreOneSentence) {
  expect_usage_error({}, "drover-test needs a command", "drover-test");
  expect_usage_error({"box"}, "drover-test box needs a command", "drover-test box");
  expect_usage_error({"frobnicate"}, "unknown command drover-test frobnicate", "drover-test");
  expect_usage_error({"box", "mve"}, "unknown command drover-test box mve", "drover-test box");
  expect_usage_error({"box", "create"}, "NAME is missing", "drover-test box create");
  expect_usage_error({"box", "create", "a", "b c"}, "unexpected argument 'b c'", "drover-test box create");
  expect_usage_error({"box", "create", "a", "--foo"}, "unknown option --foo", "drover-test box create");
  expect_usage_error({"box", "create", "a", "--count"}, "--count needs a value", "drover-test box create");
  expect_usage_error({"box", "create", "a", "--count=x"}, "--count wants a number, not 'x'",
                     "drover-test box create");
}

TEST(Command, WhatWasMeantIsGuessed) {
  auto hint = [](const std::vector<const char*>& arguments) {
    std::string said = run_program(arguments).err;
    return said.substr(said.find('\n') + 1);
  };
  EXPECT_EQ(hint({"bix"}), "hint: did you mean drover-test box?\n");
  EXPECT_EQ(hint({"box", "craete", "web1"}), "hint: did you mean drover-test box create?\n");
  EXPECT_EQ(hint({"box", "create", "a", "--cuont", "3"}), "hint: did you mean --count?\n");
  EXPECT_EQ(hint({"box", "create", "a", "--jsno"}), "hint: did you mean --json?\n");
  EXPECT_EQ(hint({"image"}), "hint: did you mean drover image?\n") << "a noun of the other program";
}

TEST(Command, AnErrorIsRenderedAndSetsTheStatus) {
  Outcome outcome = run_program({"box", "fail"});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_EQ(outcome.err, "error: it broke\n  while moving box web1\nhint: mend it\n");
}

TEST(Command, AnErrorIsOneLineWithJson) {
  Outcome outcome = run_program({"box", "fail", "--json"});
  EXPECT_EQ(outcome.status, 3);
  EXPECT_EQ(nlohmann::json::parse(outcome.err),
            nlohmann::json(
                {{"error", "it broke"}, {"while", {"moving box web1"}}, {"hint", "mend it"}, {"exit", 3}}));
}

TEST(Command, WhatNobodyThoughtOfIsCalledADefect) {
  Outcome outcome = run_program({"box", "crash"});
  EXPECT_EQ(outcome.status, 1);
  EXPECT_EQ(outcome.err, "error: this is a defect of drover-test: at\n");
}

TEST(Command, HelpDoesNotRunOrDemandArguments) {
  Outcome outcome = run_program({"box", "create", "--help"});
  EXPECT_EQ(outcome.status, 0);
  EXPECT_EQ(ran, "");
  EXPECT_TRUE(outcome.out.contains("drover-test box create [OPTIONS] NAME")) << outcome.out;
  outcome = run_program({"box", "--help"});
  EXPECT_TRUE(outcome.out.contains("    drover-test box create  Make a box\n")) << outcome.out;
}

TEST(Command, ListsCommandsWithTheirOptions) {
  EXPECT_EQ(run_program({"--list-commands"}).out,
            "drover-test box create\tNAME --count\n"
            "drover-test box fail\t\n"
            "drover-test box crash\t\n"
            "drover-test recover\t\n");
}

}  // namespace
}  // namespace cli
