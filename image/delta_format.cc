#include "image/delta_format.h"

#include <algorithm>
#include <bit>

#include "base/error.h"
#include "base/json_object.h"

namespace image {
namespace {

using nlohmann::json;

constexpr std::string_view kMagic = "drovimd1";
constexpr std::string_view kWhat = "the delta's header";
constexpr uint32_t kMostHeader = 64 << 10, kMostManifest = 8 << 20, kMostSignature = 4096;
constexpr size_t kMostParts = 32;
constexpr uint64_t kMostBytes = uint64_t{1} << 40;
constexpr int kLeastWindow = 10, kMostWindow = 31;  // zstd's own, on 64 bits
constexpr int kUsualWindow = 23;                    // more is allowed where the part is larger
constexpr uint64_t kBuffers = 4 << 20;              // zstd's tables, and pieces being read and written
constexpr uint64_t kDataOfALeaf = 64;  // of the hash area 1/128 is kept, and doubled when it is made

uint64_t number(std::string_view bytes, size_t at, size_t size) {
  uint64_t value = 0;
  for (size_t i = size; i-- > 0;) value = value << 8 | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

void put(std::string& bytes, uint64_t value, size_t size) {
  for (size_t i = 0; i < size; ++i) bytes += static_cast<char>(value >> (8 * i));
}

Part parse_source(const base::JsonObject& in) {
  Part source = {
      .name = in.text("name"), .bytes = in.number("bytes", kMostBytes), .sha256 = in.text("sha256")};
  if (!std::ranges::contains(part_kinds(), source.name, &PartKind::name))
    throw in.bad("name", "the name of a part that an image can have");
  if (source.sha256.size() != 64) throw in.bad("sha256", "64 hex digits");
  return source;
}

DeltaSection parse_section(const base::JsonObject& in, const Manifest& made,
                           const std::vector<Part>& sources) {
  DeltaSection section = {.part = in.text("part"), .bytes = in.number("bytes", kMostBytes)};
  const Part* part = made.find(section.part);
  if (part == nullptr) throw in.bad("part", "the name of a part of the new image");
  int most = std::min(kMostWindow, std::max(kUsualWindow, static_cast<int>(std::bit_width(part->bytes)) + 1));
  section.window_log = static_cast<int>(in.number("window_log", static_cast<uint64_t>(most)));
  if (section.window_log < kLeastWindow) throw in.bad("window_log", std::format("{} or more", kLeastWindow));
  if (in.at("prefix").is_null()) return section;
  base::JsonObject prefix = in.object("prefix");
  if (sources.empty()) throw in.bad("prefix", "null, as there are no sources");
  size_t source = prefix.number("source", sources.size() - 1);
  section.prefix = {.source = source, .bytes = prefix.number("bytes", sources[source].bytes)};
  return section;
}

template <class Entry, class Name>
bool each_once(const std::vector<Entry>& entries, Name name) {
  std::vector<std::string> names;
  for (const Entry& entry : entries) names.push_back(entry.*name);
  std::ranges::sort(names);
  return std::ranges::adjacent_find(names) == names.end();
}

/// Every part of the new image is made, or is one of the old.
void check_whole(const base::JsonObject& in, const DeltaHeader& header, const Manifest& made) {
  if (!each_once(header.sources, &Part::name)) throw in.bad("sources", "each part once");
  if (!each_once(header.sections, &DeltaSection::part)) throw in.bad("sections", "each part once");
  for (const Part& part : made.parts)
    if (header.find(part.name) == nullptr && !std::ranges::contains(header.sources, part))
      throw in.bad("sections", std::format("one for {}, which is not as in the old image", part.name));
}

}  // namespace

DeltaHeader DeltaHeader::parse(std::string_view text, const Manifest& made) {
  json document = base::parse_json(text, kWhat, kMostHeader);
  base::JsonObject in(document, std::string(kWhat));
  DeltaHeader header = {.from = in.text("from", 128), .sources = {}, .sections = {}};
  for (const json& source : in.list("sources", kMostParts))
    header.sources.push_back(parse_source(in.entry("sources", source)));
  for (const json& section : in.list("sections", kMostParts))
    header.sections.push_back(parse_section(in.entry("sections", section), made, header.sources));
  check_whole(in, header, made);
  header.memory = in.number("memory", ~uint64_t{0});
  if (uint64_t memory = memory_for(header.sections, made); header.memory != memory)
    throw in.bad("memory", std::format("{}, which its sections need", memory));
  return header;
}

std::string DeltaHeader::render() const {
  json sources_json = json::array(), sections_json = json::array();
  for (const Part& source : sources)
    sources_json.push_back({{"name", source.name}, {"bytes", source.bytes}, {"sha256", source.sha256}});
  for (const DeltaSection& section : sections) {
    json prefix = nullptr;
    if (section.prefix) prefix = {{"source", section.prefix->source}, {"bytes", section.prefix->bytes}};
    sections_json.push_back({{"part", section.part},
                             {"bytes", section.bytes},
                             {"window_log", section.window_log},
                             {"prefix", prefix}});
  }
  json document = {
      {"from", from}, {"sources", sources_json}, {"sections", sections_json}, {"memory", memory}};
  return document.dump() + "\n";
}

const DeltaSection* DeltaHeader::find(std::string_view part) const {
  auto found = std::ranges::find(sections, part, &DeltaSection::part);
  return found == sections.end() ? nullptr : &*found;
}

uint64_t memory_for(const std::vector<DeltaSection>& sections, const Manifest& made) {
  uint64_t most = 0;
  for (const DeltaSection& section : sections) {
    uint64_t bytes = uint64_t{1} << section.window_log;
    if (section.prefix) bytes += section.prefix->bytes;
    most = std::max(most, bytes);
  }
  return most + made.root.data_bytes / kDataOfALeaf + kBuffers;
}

std::string render(const DeltaHead& head) {
  std::string bytes(kMagic);
  for (uint32_t size : {head.header, head.manifest, head.signature}) put(bytes, size, 4);
  return bytes;
}

DeltaHead parse_delta_head(std::string_view bytes) {
  if (bytes.size() != kDeltaHead || !bytes.starts_with(kMagic))
    throw base::error("this is not an image delta");
  DeltaHead head = {.header = static_cast<uint32_t>(number(bytes, 8, 4)),
                    .manifest = static_cast<uint32_t>(number(bytes, 12, 4)),
                    .signature = static_cast<uint32_t>(number(bytes, 16, 4))};
  if (head.header > kMostHeader || head.manifest > kMostManifest || head.signature > kMostSignature)
    throw base::error("the delta is malformed: its header, manifest or signature is too large");
  return head;
}

std::string render(const DeltaOp& op) {
  std::string bytes;
  put(bytes, static_cast<uint64_t>(op.kind), 1);
  put(bytes, op.source, 1);
  put(bytes, op.offset, 8);
  put(bytes, op.length, 8);
  return bytes;
}

DeltaOp parse_delta_op(std::string_view bytes) {
  DeltaOp op = {.kind = static_cast<DeltaOp::Kind>(bytes.at(0)),
                .source = static_cast<uint8_t>(bytes.at(1)),
                .offset = number(bytes, 2, 8),
                .length = number(bytes, 10, 8)};
  bool copies = op.kind == DeltaOp::Kind::kCopy;
  if (op.kind < DeltaOp::Kind::kNew || op.kind > DeltaOp::Kind::kVerity || op.length == 0 ||
      (!copies && (op.source != 0 || op.offset != 0)))
    throw base::error("the delta is malformed: it has a step of no known kind");
  return op;
}

}  // namespace image
