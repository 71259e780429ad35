#include "migrate/tree_record.h"

#include "migrate/tree_walk.h"

namespace migrate {

std::string RecordReader::name() {
  std::string name = text(u8());
  if (name.empty() || name == "." || name == ".." || name.find('/') != name.npos ||
      name.find('\0') != name.npos)
    throw bad_tree("\"{}\" is no name of a file", shown_name(name));
  return name;
}

}  // namespace migrate
