#pragma once
#include <elf.h>
#include <sys/stat.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "base/fd.h"
#include "base/mount.h"

namespace image {

/// An ELF file with nothing in it but what it asks for: header, program headers, the dynamic section, and its
/// strings at the end.
struct ElfSample {
  std::string interpreter = {};
  std::vector<std::string> needed = {};
  std::string run_path = {};

  static constexpr uint64_t kAddress = 0x400000;
  static constexpr uint64_t kHeaders = sizeof(Elf64_Ehdr);  ///< LOAD, DYNAMIC, INTERP
  static constexpr uint64_t kDynamic = kHeaders + 3 * sizeof(Elf64_Phdr);

  [[nodiscard]] uint64_t strings() const { return kDynamic + (needed.size() + 3) * sizeof(Elf64_Dyn); }

  [[nodiscard]] std::string bytes() const {
    std::string names(1, '\0');
    std::vector<Elf64_Dyn> entries;
    auto add = [&](const std::string& name) {
      uint64_t at = names.size();
      names += name + '\0';
      return at;
    };
    auto entry = [&](int64_t tag, uint64_t value) {
      entries.push_back({.d_tag = tag, .d_un = {.d_val = value}});
    };
    for (const std::string& name : needed) entry(DT_NEEDED, add(name));
    if (!run_path.empty()) entry(DT_RUNPATH, add(run_path));
    entry(DT_STRTAB, kAddress + strings());
    entries.resize(needed.size() + 3);  // the rest are DT_NULL
    uint64_t interpreter_at = strings() + add(interpreter), size = strings() + names.size();

    Elf64_Ehdr header = {.e_ident = {},
                         .e_type = ET_DYN,
                         .e_machine = EM_X86_64,
                         .e_version = EV_CURRENT,
                         .e_entry = 0,
                         .e_phoff = kHeaders,
                         .e_shoff = 0,
                         .e_flags = 0,
                         .e_ehsize = sizeof(Elf64_Ehdr),
                         .e_phentsize = sizeof(Elf64_Phdr),
                         .e_phnum = static_cast<uint16_t>(interpreter.empty() ? 2 : 3),
                         .e_shentsize = 0,
                         .e_shnum = 0,
                         .e_shstrndx = 0};
    std::memcpy(header.e_ident, ELFMAG, SELFMAG);
    header.e_ident[EI_CLASS] = ELFCLASS64;
    header.e_ident[EI_DATA] = ELFDATA2LSB;
    header.e_ident[EI_VERSION] = EV_CURRENT;
    auto part = [](uint32_t type, uint64_t offset, uint64_t bytes) {
      return Elf64_Phdr{.p_type = type,
                        .p_flags = PF_R,
                        .p_offset = offset,
                        .p_vaddr = kAddress + offset,
                        .p_paddr = 0,
                        .p_filesz = bytes,
                        .p_memsz = bytes,
                        .p_align = 8};
    };
    std::vector<Elf64_Phdr> parts = {part(PT_LOAD, 0, size),
                                     part(PT_DYNAMIC, kDynamic, entries.size() * sizeof(Elf64_Dyn)),
                                     part(PT_INTERP, interpreter_at, interpreter.size() + 1)};
    auto raw = [](const auto* values, size_t count) {
      return std::string(reinterpret_cast<const char*>(values), count * sizeof *values);
    };
    return raw(&header, 1) + raw(parts.data(), parts.size()) + raw(entries.data(), entries.size()) + names;
  }
};

/// A root directory that goes with the test.
class SampleTree {
 public:
  [[nodiscard]] const std::string& path() const { return root_; }
  /// Beside the tree, where nothing in it may lead.
  [[nodiscard]] std::string outside() const { return directory_.path() + "/outside"; }

  void put(const std::string& path, const std::string& content, mode_t mode = 0644) const {
    base::make_directories(root_ + std::filesystem::path(path).parent_path().string());
    base::write_file(root_ + path, content);
    std::filesystem::permissions(root_ + path, std::filesystem::perms(mode));
  }
  void put(const std::string& path, const ElfSample& elf) const { put(path, elf.bytes(), 0755); }
  void link(const std::string& path, const std::string& target) const {
    base::make_directories(root_ + std::filesystem::path(path).parent_path().string());
    std::filesystem::create_symlink(target, root_ + path);
  }
  /// There, whatever it leads to.
  [[nodiscard]] bool has(const std::string& path) const {
    return std::filesystem::symlink_status(root_ + path).type() != std::filesystem::file_type::not_found;
  }
  [[nodiscard]] std::string text(const std::string& path) const { return base::read_file(root_ + path); }

 private:
  base::TempDir directory_ = base::TempDir::make("/tmp", "image-tree-");
  std::string root_ = directory_.path() + "/root";
};

}  // namespace image
