# Writes OUTPUT, the C++ source that holds the pages PAGES (a list of Markdown files).
# Run by the build: cmake -DOUTPUT=… -DPAGES=… -P cmake/embed_pages.cmake
set(entries "")
foreach(page ${PAGES})
  get_filename_component(name ${page} NAME_WE)
  file(READ ${page} text)
  string(APPEND entries "    {\"${name}\", R\"page(${text})page\"},\n")
endforeach()
file(WRITE ${OUTPUT} "#include \"cli/man.h\"

#include <array>

namespace cli {
namespace {

constexpr auto kPages = std::to_array<Page>({
${entries}});

}  // namespace

std::span<const Page> pages() { return kPages; }

}  // namespace cli
")
