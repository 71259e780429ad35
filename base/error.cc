#include "base/error.h"

#include <new>
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

Error as_error(const std::exception& caught) {
  if (const auto* known = dynamic_cast<const Error*>(&caught)) return *known;
  if (dynamic_cast<const std::bad_alloc*>(&caught)) return Error("no memory is left");
  if (const auto* failed = dynamic_cast<const std::system_error*>(&caught))
    return Error(std::string("the system refused: ") + failed->what());
  return Error(std::string("this is a defect of drover: ") + caught.what());
}

std::string Error::render() const {
  std::string text = "error: " + message_ + "\n";
  for (const std::string& what : contexts_) text += "  while " + what + "\n";
  if (!hint_.empty()) text += "hint: " + hint_ + "\n";
  return text;
}

}  // namespace base
