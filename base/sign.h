#pragma once
#include <string>
#include <string_view>

#include "base/hash.h"

namespace base {

/// Signatures in minisign's file formats (docs/formats/template-manifest.md), so that
/// minisign(1) can check what drover signs and the other way round. Keys lie in one directory:
///
///     local.key   ours, mode 0600, made by the first `sign`; without a password
///     *.pub       public keys whose signatures count here; local.pub is ours
class Keys {
 public:
  explicit Keys(std::string directory) : directory_(std::move(directory)) {}

  /// The text of a .minisig file over `message`. `comment` is signed as well.
  [[nodiscard]] std::string sign(std::string_view message, const std::string& comment) const;
  /// The same for a message that is too large to hold, by its hash: what minisign itself signs.
  [[nodiscard]] std::string sign(const Blake2b::Digest& hash, const std::string& comment) const;

  /// Throws unless a trusted key made `signature` over exactly `message`: "… is not signed by a
  /// trusted key" or "… does not match its signature". `what` names the message's file.
  void verify(std::string_view message, std::string_view signature, const std::string& what) const;
  void verify(const Blake2b::Digest& hash, std::string_view signature, const std::string& what) const;

  [[nodiscard]] const std::string& directory() const { return directory_; }

 private:
  /// The signature is by a trusted key, over a hash of the message or (`message` given) over itself.
  void verify(const Blake2b::Digest& hash, const std::string_view* message, std::string_view signature,
              const std::string& what) const;
  std::string directory_;
};

}  // namespace base
