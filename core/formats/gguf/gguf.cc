#include "core/formats/gguf/gguf.h"

#include <algorithm>
#include <array>
#include <map>

#include "core/base/checked.h"
#include "core/base/json.h"

namespace sluice {
namespace {

constexpr uint32_t kMaxDims = 4;
constexpr uint64_t kMaxKeyBytes = 65535;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint32_t kMaxArrayDepth = 8;
// The least that one entry takes: an empty key, its type and a byte; an empty name, no dimensions,
// type and offset.
constexpr uint64_t kMinPairBytes = 8 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;

// gguf_metadata_value_type of the specification.
enum ValueType : uint32_t {
  kUint8,
  kInt8,
  kUint16,
  kInt16,
  kUint32,
  kInt32,
  kFloat32,
  kBool,
  kString,
  kArray,
  kUint64,
  kInt64,
  kFloat64,
};
struct ValueInfo {
  std::string_view name;
  uint32_t bytes;  // 0 where the length varies
};
constexpr std::array<ValueInfo, 13> kValues = {{
    {"uint8", 1},
    {"int8", 1},
    {"uint16", 2},
    {"int16", 2},
    {"uint32", 4},
    {"int32", 4},
    {"float32", 4},
    {"bool", 1},
    {"string", 0},
    {"array", 0},
    {"uint64", 8},
    {"int64", 8},
    {"float64", 8},
}};

// ggml_type by number; the names of types that ggml removed stand in place of a dtype.
struct GgmlType {
  std::optional<DType> dtype;
  std::string_view removed = {};
};
constexpr std::array<GgmlType, 43> kTypes = {{
    {DType::f32},    {DType::f16},       {DType::q4_0},      {DType::q4_1},      {{}, "Q4_2"},
    {{}, "Q4_3"},    {DType::q5_0},      {DType::q5_1},      {DType::q8_0},      {DType::q8_1},
    {DType::q2_k},   {DType::q3_k},      {DType::q4_k},      {DType::q5_k},      {DType::q6_k},
    {DType::q8_k},   {DType::iq2_xxs},   {DType::iq2_xs},    {DType::iq3_xxs},   {DType::iq1_s},
    {DType::iq4_nl}, {DType::iq3_s},     {DType::iq2_s},     {DType::iq4_xs},    {DType::i8},
    {DType::i16},    {DType::i32},       {DType::i64},       {DType::f64},       {DType::iq1_m},
    {DType::bf16},   {{}, "Q4_0_4_4"},   {{}, "Q4_0_4_8"},   {{}, "Q4_0_8_8"},   {DType::tq1_0},
    {DType::tq2_0},  {{}, "IQ4_NL_4_4"}, {{}, "IQ4_NL_4_8"}, {{}, "IQ4_NL_8_8"}, {DType::mxfp4},
    {DType::nvfp4},  {DType::q1_0},      {DType::q2_0},
}};

class GgufParser {
 public:
  GgufParser(Bytes prefix, std::optional<uint64_t> nbytes, std::string_view path)
      : prefix_(
            prefix.first(static_cast<size_t>(std::min<uint64_t>(prefix.size(), kGgufMaxHeader)))),
        reader_(prefix_),
        nbytes_(nbytes),
        path_(path) {}

  Result<Prefix<Manifest>> parse() {
    SLUICE_ASSIGN(const bool complete, read_header());
    if (!complete) return next_prefix();
    out_.metadata_json = std::move(metadata_).take();
    out_.format = "gguf";
    out_.files.push_back({.path = std::string(path_), .nbytes = nbytes_});
    SLUICE_TRY(place_tensors());
    SLUICE_TRY(validate(out_, path_));
    return Prefix<Manifest>::done(std::move(out_));
  }

 private:
  // The functions below that read return false where the prefix ended first; reader_.missing() then
  // says how far it must reach.
  using Complete = Result<bool>;

  Error error(ErrorCode code, std::string message) const {
    return Error{.code = code, .message = std::move(message), .file = std::string(path_)};
  }
  std::unexpected<Error> invalid(std::string message) const {
    return std::unexpected(error(ErrorCode::manifest_invalid, std::move(message)));
  }
  std::unexpected<Error> tensor_fault(ErrorCode code, std::string_view tensor,
                                      std::string_view fault, std::string hint = {}) const {
    Error out = error(code, concat("tensor ", quote(tensor), " of ", path_, " ", fault));
    out.tensor = tensor;
    out.hint = std::move(hint);
    return std::unexpected(std::move(out));
  }

  // Doubling keeps the bytes that are parsed again, over all calls, within twice the header.
  Result<Prefix<Manifest>> next_prefix() const {
    const uint64_t missing = std::max(reader_.missing(), least_);
    if (nbytes_ && missing > *nbytes_) {
      Error out = error(ErrorCode::truncated,
                        concat(path_, " has ", *nbytes_, " bytes, but its GGUF header goes on to ",
                               "byte ", missing, " at least"));
      out.expected = missing;
      out.actual = nbytes_;
      out.hint = "download the file again";
      return std::unexpected(std::move(out));
    }
    if (missing > kGgufMaxHeader)
      return invalid(concat("the GGUF header of ", path_, " goes on to byte ", missing,
                            " at least; the limit is ", kGgufMaxHeader));
    uint64_t bytes = std::max(missing, std::min(2 * uint64_t{prefix_.size()}, kGgufMaxHeader));
    if (nbytes_) bytes = std::min(bytes, *nbytes_);
    return Prefix<Manifest>::need(bytes);
  }

  Complete read_header() {
    const auto magic = reader_.take(4);
    if (!magic) return false;
    if (as_text(*magic) != "GGUF") {
      Error out = error(ErrorCode::manifest_invalid,
                        concat(path_, " does not begin with the magic bytes 'GGUF'"));
      out.hint = foreign_file_hint(prefix_);
      return std::unexpected(std::move(out));
    }
    const auto version = reader_.read<uint32_t>();
    if (!version) return false;
    SLUICE_TRY(check_version(*version));
    const auto tensors = reader_.read<uint64_t>();
    if (!tensors) return false;
    const auto pairs = reader_.read<uint64_t>();
    if (!pairs) return false;
    SLUICE_TRY(check_counts(*tensors, *pairs));

    metadata_.begin_object();
    for (uint64_t i = 0; i < *pairs; ++i) {
      SLUICE_ASSIGN(const bool complete, read_pair());
      if (!complete) return false;
    }
    metadata_.end_object();
    out_.tensors.reserve(static_cast<size_t>(
        std::min(*tensors, (prefix_.size() - reader_.position()) / kMinTensorBytes)));
    for (uint64_t i = 0; i < *tensors; ++i) {
      SLUICE_ASSIGN(const bool complete, read_tensor());
      if (!complete) return false;
    }
    return true;
  }

  Status check_version(uint32_t version) const {
    if (version == 2 || version == 3) return {};
    Error out = error(ErrorCode::manifest_invalid,
                      concat(path_, " is GGUF version ", version, "; versions 2 and 3 are read"));
    out.actual = version;
    if (version == 1) out.hint = "convert the model anew with a current converter";
    if (const uint32_t swapped = __builtin_bswap32(version); swapped == 2 || swapped == 3) {
      out.message = concat(path_, " is a big-endian GGUF file (version ", swapped,
                           "); only little-endian files are read");
      out.actual = swapped;
      out.hint = "convert it with gguf_convert_endian.py of llama.cpp";
    }
    return std::unexpected(std::move(out));
  }

  // Refuses counts whose entries could not fit, before anything is read or reserved by them.
  Status check_counts(uint64_t tensors, uint64_t pairs) {
    const auto pair_bytes = checked_mul(pairs, kMinPairBytes);
    const auto tensor_bytes = checked_mul(tensors, kMinTensorBytes);
    const auto sum = pair_bytes && tensor_bytes ? checked_add(*pair_bytes, *tensor_bytes)
                                                : std::optional<uint64_t>();
    const auto end = sum ? checked_add(reader_.position(), *sum) : std::optional<uint64_t>();
    const uint64_t limit = std::min(nbytes_.value_or(kGgufMaxHeader), kGgufMaxHeader);
    if (end && *end <= limit) {
      least_ = *end;
      return {};
    }
    return invalid(concat(path_, " claims ", tensors, " tensors and ", pairs,
                          " metadata pairs, which cannot fit into ", limit, " bytes"));
  }

  std::optional<std::string_view> read_string() {
    const auto length = reader_.read<uint64_t>();
    if (!length) return std::nullopt;
    const auto bytes = reader_.take(*length);
    if (!bytes) return std::nullopt;
    return as_text(*bytes);
  }

  Complete read_pair() {
    const auto key_length = reader_.read<uint64_t>();
    if (!key_length) return false;
    if (*key_length > kMaxKeyBytes)
      return invalid(concat("a metadata key of ", path_, " claims ", *key_length,
                            " bytes; the limit is ", kMaxKeyBytes));
    const auto key_bytes = reader_.take(*key_length);
    if (!key_bytes) return false;
    const std::string_view key = as_text(*key_bytes);
    if (!keys_.emplace(key, 0).second)
      return invalid(concat("the metadata key ", quote(key), " stands twice in ", path_));
    const auto type = reader_.read<uint32_t>();
    if (!type) return false;
    if (key == "general.alignment" && *type != kUint32)
      return invalid(
          concat("general.alignment of ", path_, " has the type ", *type, "; expected 4 (uint32)"));
    metadata_.key(key);
    switch (*type) {
      case kUint8:
        return read_number<uint8_t, uint64_t>();
      case kInt8:
        return read_number<int8_t, int64_t>();
      case kUint16:
        return read_number<uint16_t, uint64_t>();
      case kInt16:
        return read_number<int16_t, int64_t>();
      case kUint32:
        return key == "general.alignment" ? read_alignment() : read_number<uint32_t, uint64_t>();
      case kInt32:
        return read_number<int32_t, int64_t>();
      case kFloat32:
        return read_number<float, double>();
      case kUint64:
        return read_number<uint64_t, uint64_t>();
      case kInt64:
        return read_number<int64_t, int64_t>();
      case kFloat64:
        return read_number<double, double>();
      case kBool:
        return read_bool(key);
      case kString: {
        const auto text = read_string();
        if (text) metadata_.string(*text);
        return text.has_value();
      }
      case kArray:
        return read_array(key);
      default:
        return invalid(concat("the metadata key ", quote(key), " of ", path_,
                              " has the unknown type ", *type));
    }
  }

  template <class Stored, class Written>
  Complete read_number() {
    const auto value = reader_.read<Stored>();
    if (value) metadata_.number(static_cast<Written>(*value));
    return value.has_value();
  }

  Complete read_bool(std::string_view key) {
    const auto value = reader_.read<uint8_t>();
    if (!value) return false;
    if (*value > 1)
      return invalid(concat("the metadata key ", quote(key), " of ", path_, " is the boolean ",
                            *value, "; expected 0 or 1"));
    metadata_.boolean(*value == 1);
    return true;
  }

  // The specification asks for a multiple of 8; ggml itself for a power of two. Either is read.
  Complete read_alignment() {
    const auto value = reader_.read<uint32_t>();
    if (!value) return false;
    if (*value == 0 || (*value % 8 != 0 && (*value & (*value - 1)) != 0))
      return invalid(concat("general.alignment of ", path_, " is ", *value,
                            "; expected a multiple of 8 or a power of two"));
    alignment_ = *value;
    metadata_.number(uint64_t{*value});
    return true;
  }

  // Writes {"type", "length"} of the array and passes over its elements.
  Complete read_array(std::string_view key) {
    const auto type = reader_.read<uint32_t>();
    if (!type) return false;
    const auto length = reader_.read<uint64_t>();
    if (!length) return false;
    SLUICE_ASSIGN(const bool complete, skip_elements(*type, *length, 1, key));
    if (!complete) return false;
    metadata_.begin_object();
    metadata_.key("type").string(kValues[*type].name);
    metadata_.key("length").number(*length);
    metadata_.end_object();
    return true;
  }

  Complete skip_elements(uint32_t type, uint64_t length, uint32_t depth, std::string_view key) {
    if (type >= kValues.size())
      return invalid(concat("the metadata array ", quote(key), " of ", path_,
                            " has elements of the unknown type ", type));
    // What the elements take at least: a string its length, an array its type and length.
    const uint64_t least = type == kString ? 8 : type == kArray ? 12 : kValues[type].bytes;
    const auto bytes = checked_mul(length, least);
    if (!bytes || *bytes > kGgufMaxHeader)
      return invalid(concat("the metadata array ", quote(key), " of ", path_, " claims ", length,
                            " elements of ", kValues[type].name, "; the limit of the header is ",
                            kGgufMaxHeader, " bytes"));
    if (type != kString && type != kArray) return reader_.take(*bytes).has_value();
    if (type == kArray && depth == kMaxArrayDepth)
      return invalid(concat("the metadata array ", quote(key), " of ", path_, " nests deeper than ",
                            kMaxArrayDepth, " levels"));
    least_ = std::max(least_, reader_.position() + *bytes);
    for (uint64_t i = 0; i < length; ++i) {
      if (type == kString) {
        if (!read_string()) return false;
        continue;
      }
      const auto inner_type = reader_.read<uint32_t>();
      if (!inner_type) return false;
      const auto inner_length = reader_.read<uint64_t>();
      if (!inner_length) return false;
      SLUICE_ASSIGN(const bool complete, skip_elements(*inner_type, *inner_length, depth + 1, key));
      if (!complete) return false;
    }
    return true;
  }

  Complete read_tensor() {
    const auto name = read_string();
    if (!name) return false;
    const auto dims = reader_.read<uint32_t>();
    if (!dims) return false;
    if (*dims > kMaxDims)
      return tensor_fault(ErrorCode::manifest_invalid, *name,
                          concat("has ", *dims, " dimensions; the limit is ", kMaxDims));
    TensorEntry out{.name = std::string(*name)};
    for (uint32_t i = 0; i < *dims; ++i) {
      const auto extent = reader_.read<uint64_t>();
      if (!extent) return false;
      out.shape.push_back(*extent);
    }
    std::ranges::reverse(out.shape);
    const auto type = reader_.read<uint32_t>();
    if (!type) return false;
    const auto offset = reader_.read<uint64_t>();
    if (!offset) return false;

    const GgmlType known = *type < kTypes.size() ? kTypes[*type] : GgmlType{};
    if (!known.removed.empty())
      return tensor_fault(
          ErrorCode::unsupported_dtype, *name,
          concat("has the ggml type ", *type, " (", known.removed, "), which ggml removed"),
          "quantize the model anew with a current llama.cpp");
    if (!known.dtype)
      return tensor_fault(ErrorCode::unsupported_dtype, *name,
                          concat("has the ggml type ", *type, ", which is not known here"));
    out.dtype = *known.dtype;
    const auto nbytes = dense_bytes(out.shape, out.dtype);
    if (!nbytes)
      return tensor_fault(ErrorCode::manifest_invalid, *name,
                          concat("has the shape ", shape_text(out.shape), " of ",
                                 dtype_name(out.dtype), ", whose size overflows 64 bits"));
    out.nbytes = *nbytes;
    out.offset = *offset;  // within the data until place_tensors()
    out_.tensors.push_back(std::move(out));
    return true;
  }

  // Turns offsets within the data into offsets within the file.
  Status place_tensors() {
    if (out_.tensors.empty()) return {};
    const uint64_t header = reader_.position();
    // Cannot overflow: the header is within kGgufMaxHeader, the alignment within 32 bits.
    const uint64_t data_start = (header + alignment_ - 1) / alignment_ * alignment_;
    // Writers lay tensors out one behind the other. While that holds, a tensor beyond the end means
    // that the file was cut, not that its offset is wrong.
    uint64_t next = 0;
    for (TensorEntry& tensor : out_.tensors) {
      if (tensor.offset % alignment_ != 0)
        return tensor_fault(ErrorCode::manifest_invalid, tensor.name,
                            concat("has the offset ", tensor.offset, ", not a multiple of ",
                                   alignment_, " (general.alignment)"));
      const bool in_line = tensor.offset == next;
      const auto start = checked_add(data_start, tensor.offset);
      const auto end = start ? checked_add(*start, tensor.nbytes) : std::nullopt;
      const auto padded = end ? checked_add(tensor.nbytes, alignment_ - 1) : std::nullopt;
      const auto following =
          padded ? checked_add(tensor.offset, *padded / alignment_ * alignment_) : std::nullopt;
      if (!following)
        return tensor_fault(ErrorCode::range_out_of_bounds, tensor.name,
                            concat("takes ", tensor.nbytes, " bytes from offset ", tensor.offset,
                                   " of the data, which overflows 64 bits"));
      if (in_line && nbytes_ && *end > *nbytes_) {
        Error out =
            error(ErrorCode::truncated, concat(path_, " has ", *nbytes_, " bytes, but its tensor ",
                                               quote(tensor.name), " ends at byte ", *end));
        out.tensor = tensor.name;
        out.expected = end;
        out.actual = nbytes_;
        out.hint = "download the file again";
        return std::unexpected(std::move(out));
      }
      next = in_line ? *following : UINT64_MAX;  // UINT64_MAX: no offset matches any more
      tensor.offset = *start;
    }
    return {};
  }

  Bytes prefix_;
  ByteReader reader_;
  std::optional<uint64_t> nbytes_;
  std::string_view path_;
  Manifest out_;
  JsonWriter metadata_;
  std::map<std::string_view, uint32_t> keys_;
  uint64_t alignment_ = kDefaultAlignment;
  uint64_t least_ = 0;  // the header reaches at least to this byte
};

}  // namespace

Result<Prefix<Manifest>> parse_gguf(Bytes prefix, std::optional<uint64_t> nbytes,
                                    std::string_view path) {
  return GgufParser(prefix, nbytes, path).parse();
}

}  // namespace sluice
