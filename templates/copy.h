#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "base/context.h"
#include "templates/store.h"

namespace templates {

/// Installs a template version in the store of `node`: runs `drover-node template receive` there
/// through `rsh` (such as {"ssh"}; the node's name and the command are put behind) and gives
/// it what it does not have. Returns the bytes of layers sent.
uint64_t copy_to(base::Context& context, const Store& store, const std::string& reference,
                 const std::string& node, const std::vector<std::string>& rsh);

/// What is wrong with one template version; an empty problem is none.
struct Verdict {
  std::string reference, problem, hint;
};

/// Checks signatures, and every byte of every layer, of these references (none: of all).
std::vector<Verdict> verify(base::Context& context, const Store& store,
                            const std::vector<std::string>& references);

}  // namespace templates
