#include "image/sbom.h"

#include <nlohmann/json.hpp>

#include <chrono>

#include "base/hash.h"

namespace image {
namespace {

using nlohmann::ordered_json;

constexpr const char* kUnknown = "NOASSERTION";  // SPDX 2.3: nobody has looked
constexpr const char* kDocument = "SPDXRef-DOCUMENT";
constexpr const char* kImage = "SPDXRef-Image";

/// An SPDXID holds letters, digits, '.' and '-' only; a package's name may hold '+'. Neither name nor
/// architecture has capitals, so no two packages get the same one.
std::string id_of(const Package& package) {
  std::string id = "SPDXRef-Package-";
  for (char c : package.name) id += c == '+' ? 'P' : c;
  return id + "-Architecture-" + package.architecture;
}

/// Of a version of Debian, only '+' has to be encoded in a package URL.
std::string purl_of(const Package& package) {
  auto encoded = [](std::string_view text) {
    std::string out;
    for (char c : text) out += c == '+' ? "%2B" : std::string(1, c);
    return out;
  };
  return std::format("pkg:deb/debian/{}@{}?arch={}", encoded(package.name), encoded(package.version),
                     package.architecture);
}

std::string time_of(int64_t clock) {
  return std::format("{:%Y-%m-%dT%H:%M:%SZ}", std::chrono::sys_seconds(std::chrono::seconds(clock)));
}

ordered_json package_json(const std::string& id, const std::string& name, const std::string& version) {
  return {{"SPDXID", id},
          {"name", name},
          {"versionInfo", version},
          {"downloadLocation", kUnknown},
          {"filesAnalyzed", false},
          {"licenseConcluded", kUnknown},
          {"licenseDeclared", kUnknown},
          {"copyrightText", kUnknown}};
}

ordered_json debian_json(const Package& package) {
  ordered_json out = package_json(id_of(package), package.name, package.version);
  out["sourceInfo"] = "built from the source package " + package.source;
  out["externalRefs"] = {{{"referenceCategory", "PACKAGE-MANAGER"},
                          {"referenceType", "purl"},
                          {"referenceLocator", purl_of(package)}}};
  return out;
}

ordered_json relation(const std::string& from, const char* how, const std::string& to) {
  return {{"spdxElementId", from}, {"relationshipType", how}, {"relatedSpdxElement", to}};
}

}  // namespace

std::string render_sbom(const Manifest& manifest) {
  ordered_json image = package_json(kImage, manifest.name, manifest.version);
  image["primaryPackagePurpose"] = "OPERATING-SYSTEM";
  ordered_json packages = {image};
  ordered_json relations = {relation(kDocument, "DESCRIBES", kImage)};
  for (const Package& package : manifest.packages) {
    packages.push_back(debian_json(package));
    relations.push_back(relation(kImage, "CONTAINS", id_of(package)));
  }
  ordered_json document = {
      {"spdxVersion", "SPDX-2.3"},
      {"dataLicense", "CC0-1.0"},
      {"SPDXID", kDocument},
      {"name", manifest.reference()},
      {"documentNamespace", ""},
      {"creationInfo",
       {{"created", time_of(manifest.clock)}, {"creators", {"Tool: drover-" + manifest.drover_version}}}},
      {"packages", packages},
      {"relationships", relations},
  };
  // The namespace is to be another one for every other document (SPDX 2.3, 6.5), and the same for the same
  // one.
  document["documentNamespace"] =
      std::format("https://spdx.org/spdxdocs/{}-{}-{}", manifest.name, manifest.version,
                  base::sha256_hex(manifest.definition_hash + document.dump()));
  return document.dump(1) + "\n";
}

}  // namespace image
