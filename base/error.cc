#include "base/error.h"

#include <system_error>

namespace base {

Error::Error(std::string message, int err) : message_(std::move(message)), err_(err) {
  if (err_ != 0) message_ += ": " + std::generic_category().message(err_);
}

Error& Error::context(std::string what) & {
  contexts_.push_back(std::move(what));
  return *this;
}

Error&& Error::context(std::string what) && { return std::move(context(std::move(what))); }

Error&& Error::hint(std::string text) && {
  hint_ = std::move(text);
  return std::move(*this);
}

Error& Error::exit(Exit code) & {
  exit_ = code;
  return *this;
}

Error&& Error::exit(Exit code) && { return std::move(exit(code)); }

std::string Error::render() const {
  std::string text = "error: " + message_ + "\n";
  for (const std::string& what : contexts_) text += "  while " + what + "\n";
  if (!hint_.empty()) text += "hint: " + hint_ + "\n";
  return text;
}

}  // namespace base
