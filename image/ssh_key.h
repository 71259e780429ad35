#pragma once
#include <string>
#include <string_view>

namespace image {

/// What is wrong with a line of authorized_keys, as "expected …, found …"; empty when nothing is. It has to
/// be TYPE BASE64 COMMENT (the comment may be absent), as a .pub file of OpenSSH has it, whole (RFC
/// 4253, 6.6: the blob is made of strings, the first of which is the type). Options before the type are not
/// taken.
std::string problem_with_ssh_key(std::string_view line);

}  // namespace image
