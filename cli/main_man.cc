// For the build of the packages: writes every page of docs/man into a directory, as man(1) reads it.
#include <iostream>

#include "base/error.h"
#include "base/fd.h"
#include "cli/command.h"
#include "cli/man.h"

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: man_pages DIRECTORY\n";
    return 2;
  }
  try {
    for (const cli::Page& page : cli::pages())
      base::write_file(std::string(argv[1]) + "/" + std::string(page.name) + ".1", cli::as_roff(page));
  } catch (const base::Error& error) {
    std::cerr << error.render();
    return 1;
  }
}
