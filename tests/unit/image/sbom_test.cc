#include "image/sbom.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <regex>
#include <set>

#include "tests/unit/image/image_samples.h"

namespace image {
namespace {

using nlohmann::json;

json sbom() { return json::parse(render_sbom(sample_manifest())); }

/// What SPDX 2.3 asks of a document's own fields: chapters 6.1 to 6.9.
TEST(Sbom, HasTheFieldsOfADocument) {
  json document = sbom();
  EXPECT_EQ(document["spdxVersion"], "SPDX-2.3");
  EXPECT_EQ(document["dataLicense"], "CC0-1.0");
  EXPECT_EQ(document["SPDXID"], "SPDXRef-DOCUMENT");
  EXPECT_EQ(document["name"], "node-vm@2026112801");
  // An absolute URI without a fragment.
  EXPECT_TRUE(std::regex_match(document["documentNamespace"].get<std::string>(),
                               std::regex("https://[a-z.]+/[A-Za-z0-9/.@-]+")));
  EXPECT_EQ(document["creationInfo"]["created"], "2026-09-21T14:13:20Z");
  EXPECT_EQ(document["creationInfo"]["creators"], json({"Tool: drover-0.1.0"}));
  std::set<std::string> known = {"spdxVersion",       "dataLicense",  "SPDXID",   "name",
                                 "documentNamespace", "creationInfo", "packages", "relationships"};
  for (const auto& [key, value] : document.items()) EXPECT_TRUE(known.contains(key)) << key;
}

/// Chapter 7: what every package has, with the forms that the schema gives.
TEST(Sbom, HasTheFieldsOfAPackage) {
  const std::regex id("SPDXRef-[a-zA-Z0-9.-]+");
  std::set<std::string> ids;
  json document = sbom();
  for (const json& package : document["packages"]) {
    EXPECT_TRUE(std::regex_match(package["SPDXID"].get<std::string>(), id)) << package;
    EXPECT_TRUE(ids.insert(package["SPDXID"]).second) << package;
    EXPECT_FALSE(package["name"].get<std::string>().empty());
    EXPECT_FALSE(package["versionInfo"].get<std::string>().empty());
    EXPECT_EQ(package["downloadLocation"], "NOASSERTION");
    EXPECT_EQ(package["filesAnalyzed"], false);  // so it needs no verification code
    for (const char* key : {"licenseConcluded", "licenseDeclared", "copyrightText"})
      EXPECT_EQ(package[key], "NOASSERTION") << key;
  }
  EXPECT_EQ(ids.size(), 1 + sample_manifest().packages.size());
}

TEST(Sbom, NamesEachPackageByItsUrl) {
  json packages = sbom()["packages"];
  EXPECT_EQ(packages[0]["primaryPackagePurpose"], "OPERATING-SYSTEM");
  EXPECT_EQ(packages[1]["externalRefs"][0]["referenceLocator"], "pkg:deb/debian/libc6@2.41-12?arch=amd64");
  EXPECT_EQ(packages[2]["externalRefs"][0]["referenceLocator"],
            "pkg:deb/debian/libstdc%2B%2B6@1:14.2.0-19%2Bb1~x?arch=amd64");
  EXPECT_EQ(packages[2]["externalRefs"][0]["referenceCategory"], "PACKAGE-MANAGER");
  EXPECT_EQ(packages[2]["externalRefs"][0]["referenceType"], "purl");
  EXPECT_EQ(packages[1]["sourceInfo"], "built from the source package glibc");
}

/// Chapter 11: both ends of each relationship are in the document, and everything is reached from it.
TEST(Sbom, RelatesEverything) {
  json document = sbom();
  std::set<std::string> unreached;
  for (const json& package : document["packages"]) unreached.insert(package["SPDXID"]);
  std::set<std::string> known = unreached;
  known.insert("SPDXRef-DOCUMENT");
  for (const json& relation : document["relationships"]) {
    bool describes = relation["spdxElementId"] == "SPDXRef-DOCUMENT";
    EXPECT_EQ(relation["relationshipType"], describes ? "DESCRIBES" : "CONTAINS");
    EXPECT_TRUE(known.contains(relation["spdxElementId"]) && known.contains(relation["relatedSpdxElement"]))
        << relation;
    unreached.erase(relation["relatedSpdxElement"]);
  }
  EXPECT_TRUE(unreached.empty());
}

TEST(Sbom, NoTwoPackagesGetOneId) {
  Manifest manifest = sample_manifest();
  manifest.packages.clear();
  for (const char* name : {"a", "a+", "a-architecture-b", "a.b", "a-b"})
    for (const char* architecture : {"b", "all", "b-architecture-b"})
      manifest.packages.push_back(
          {.name = name, .version = "1", .architecture = architecture, .source = "a"});
  std::set<std::string> ids;
  json document = json::parse(render_sbom(manifest));
  for (const json& package : document["packages"]) ids.insert(package["SPDXID"]);
  EXPECT_EQ(ids.size(), 1 + manifest.packages.size());
}

TEST(Sbom, IsTheSameForTheSameAndAnotherOneForAnother) {
  Manifest manifest = sample_manifest();
  EXPECT_EQ(render_sbom(manifest), render_sbom(sample_manifest()));
  manifest.parts.clear();  // the list is one of them
  EXPECT_EQ(render_sbom(manifest), render_sbom(sample_manifest()));
  manifest.packages[0].version = "2.41-13";
  json other = json::parse(render_sbom(manifest));
  EXPECT_NE(other["documentNamespace"], sbom()["documentNamespace"]);
}

}  // namespace
}  // namespace image
