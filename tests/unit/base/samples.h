#pragma once
#include <functional>
#include <string>

#include "base/child.h"
#include "base/context.h"
#include "base/error.h"

namespace base {

/// What `body` throws, as a person reads it; empty when it throws nothing.
inline std::string thrown(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return error.render();
  }
  return "";
}

/// Answers commands from a function instead of running them.
class FakeRunner : public Runner {
 public:
  using Answer = std::function<Result(const Command&)>;
  explicit FakeRunner(Answer answer) : answer_(std::move(answer)) {}
  Result run(const Command& command) override {
    Result result = answer_(command);
    if (result.status != 0) throw error("{} failed", command.argv[0]);
    return result;
  }
  Result run_any(const Command& command) override { return answer_(command); }

 private:
  Answer answer_;
};

struct TestContext {
  ProcessRunner runner;
  std::unique_ptr<Progress> progress = make_progress(Talk::kSilent);
  Clock clock;
  Context context{.runner = runner, .progress = *progress, .clock = clock};
};

}  // namespace base
