#pragma once
#include <string>
#include <string_view>

namespace templates {

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

  /// Throws unless a trusted key made `signature` over exactly `message`: "… is not signed by a
  /// trusted key" or "… has a wrong signature". `what` names the message's file.
  void verify(std::string_view message, std::string_view signature, const std::string& what) const;

  [[nodiscard]] const std::string& directory() const { return directory_; }

 private:
  std::string directory_;
};

}  // namespace templates
