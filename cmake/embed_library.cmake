# Writes OUTPUT, the C++ source that holds the bytes of the shared library LIBRARY.
# Run by the build: cmake -DOUTPUT=… -DLIBRARY=… -P cmake/embed_library.cmake
file(READ ${LIBRARY} bytes HEX)
string(REGEX REPLACE "(..)" "0x\\1," bytes ${bytes})
file(WRITE ${OUTPUT} "#include \"box/criu_part.h\"

namespace box {
namespace {

constexpr unsigned char kLibrary[] = {${bytes}};

}  // namespace

std::span<const unsigned char> criu_part_library() { return kLibrary; }

}  // namespace box
")
