// drover: for the operator's machine, the build machine and the boot server.
#include "cli/command.h"
#include "cli/nouns.h"

int main(int argc, char** argv) {
  const cli::Program drover = {
      .name = "drover",
      .summary = "builds images and templates",
      .nouns = {{.name = "image", .summary = "host images of nodes", .add = cli::add_image_commands},
                {.name = "template",
                 .summary = "OS and application templates",
                 .add = cli::add_template_commands}},
      .for_users = true,
  };
  return cli::run(drover, argc, argv);
}
