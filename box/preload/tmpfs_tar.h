#pragma once

namespace box {

/// What CRIU asks of tar(1), done in this process. All of them return false where tar itself has to do it,
/// and then nothing has been written that it does not write again.

/// tar --create --gzip of the directory that is open as `directory`, to the file `archive`. `status`: as of
/// tar.
bool pack_tmpfs(int directory, int archive, int& status);
/// tar --extract --gzip of what pack_tmpfs() made, from the file `archive` to the empty directory `path`.
bool unpack_tmpfs(int archive, const char* path, int& status);

}  // namespace box
