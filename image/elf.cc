#include "image/elf.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cstring>
#include <memory>
#include <span>
#include <sstream>

#include "base/error.h"
#include "base/fd.h"

namespace image {
namespace {

/// A whole file, mapped; every look into it is checked against its end.
class File {
 public:
  explicit File(const std::string& path) : path_(path) {
    base::Fd fd = base::open(path, O_RDONLY);
    struct stat status;
    if (::fstat(fd.get(), &status) != 0) throw base::sys_error("cannot look at {}", path);
    size_ = static_cast<size_t>(status.st_size);
    if (size_ == 0) return;
    void* at = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, fd.get(), 0);
    if (at == MAP_FAILED) throw base::sys_error("cannot map {}", path);
    bytes_ = static_cast<const char*>(at);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  ~File() {
    if (bytes_ != nullptr) ::munmap(const_cast<char*>(bytes_), size_);
  }

  template <class T>
  [[nodiscard]] T at(uint64_t offset) const {
    if (offset > size_ || size_ - offset < sizeof(T)) throw damaged();
    T value;
    std::memcpy(&value, bytes_ + offset, sizeof value);
    return value;
  }
  [[nodiscard]] std::string text(uint64_t offset) const {
    if (offset >= size_) throw damaged();
    const void* end = std::memchr(bytes_ + offset, '\0', size_ - offset);
    if (end == nullptr) throw damaged();
    return {bytes_ + offset, static_cast<const char*>(end)};
  }
  [[nodiscard]] bool begins_with(std::string_view magic) const {
    return size_ >= magic.size() && std::memcmp(bytes_, magic.data(), magic.size()) == 0;
  }
  /// An offset of two numbers that the file gives.
  [[nodiscard]] uint64_t sum(uint64_t a, uint64_t b) const {
    uint64_t offset = 0;
    if (__builtin_add_overflow(a, b, &offset)) throw damaged();
    return offset;
  }
  [[nodiscard]] base::Error damaged() const { return base::error("{} is a damaged ELF file", path_); }

 private:
  std::string path_;
  const char* bytes_ = nullptr;
  size_t size_ = 0;
};

std::vector<Elf64_Phdr> headers_of(const File& file, const Elf64_Ehdr& header) {
  if (header.e_phentsize != sizeof(Elf64_Phdr) && header.e_phnum != 0) throw file.damaged();
  std::vector<Elf64_Phdr> headers;
  for (unsigned i = 0; i < header.e_phnum; ++i)
    headers.push_back(file.at<Elf64_Phdr>(file.sum(header.e_phoff, i * sizeof(Elf64_Phdr))));
  return headers;
}

uint64_t offset_of(const File& file, const std::vector<Elf64_Phdr>& headers, uint64_t address) {
  for (const Elf64_Phdr& header : headers)
    if (header.p_type == PT_LOAD && address >= header.p_vaddr && address - header.p_vaddr < header.p_filesz)
      return file.sum(header.p_offset, address - header.p_vaddr);
  throw file.damaged();
}

void read_dynamic(const File& file, const std::vector<Elf64_Phdr>& headers, const Elf64_Phdr& dynamic,
                  Elf& elf) {
  std::vector<uint64_t> needed, paths;
  std::optional<uint64_t> strings;
  for (uint64_t at = 0; at + sizeof(Elf64_Dyn) <= dynamic.p_filesz; at += sizeof(Elf64_Dyn)) {
    auto entry = file.at<Elf64_Dyn>(file.sum(dynamic.p_offset, at));
    if (entry.d_tag == DT_NULL) break;
    if (entry.d_tag == DT_NEEDED) needed.push_back(entry.d_un.d_val);
    if (entry.d_tag == DT_RUNPATH || entry.d_tag == DT_RPATH) paths.push_back(entry.d_un.d_val);
    if (entry.d_tag == DT_STRTAB) strings = offset_of(file, headers, entry.d_un.d_ptr);
  }
  if (!strings && !(needed.empty() && paths.empty())) throw file.damaged();
  for (uint64_t name : needed) elf.needed.push_back(file.text(file.sum(*strings, name)));
  for (uint64_t name : paths) {
    std::istringstream in(file.text(file.sum(*strings, name)));
    for (std::string path; std::getline(in, path, ':');) elf.run_path.push_back(path);
  }
}

}  // namespace

std::optional<Elf> read_elf(const std::string& path) {
  File file(path);
  if (!file.begins_with(ELFMAG)) return std::nullopt;
  auto header = file.at<Elf64_Ehdr>(0);
  // What is for another processor, such as firmware, gets nothing from this root.
  if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_ident[EI_DATA] != ELFDATA2LSB ||
      header.e_machine != EM_X86_64 || (header.e_type != ET_EXEC && header.e_type != ET_DYN))
    return std::nullopt;
  std::vector<Elf64_Phdr> headers = headers_of(file, header);
  Elf elf;
  bool dynamic = false;
  for (const Elf64_Phdr& part : headers) {
    if (part.p_type == PT_INTERP) elf.interpreter = file.text(part.p_offset);
    if (part.p_type != PT_DYNAMIC) continue;
    read_dynamic(file, headers, part, elf);
    dynamic = true;
  }
  if (!dynamic && elf.interpreter.empty()) return std::nullopt;
  return elf;
}

}  // namespace image
