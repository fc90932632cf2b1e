// Element types as text. The names are TVM's: a code, the bits of a lane, and "x4" or "xvscalex4"
// for vectors; "i", "u", "f", "bf" and "fp8_", "fp6_", "fp4_" stand for the long ones.
#include <charconv>
#include <cstring>
#include <string>

#include "core/ffi/object.h"

namespace sluice::ffi {
namespace {

// Codes whose name is followed by a number of bits
struct PlainCode {
  std::string_view name;
  uint8_t code;
  uint8_t default_bits;
};
constexpr PlainCode kPlain[] = {
    {"int", kDLInt, 32},       {"uint", kDLUInt, 32},       {"float", kDLFloat, 32},
    {"bfloat", kDLBfloat, 16}, {"complex", kDLComplex, 64}, {"handle", kDLOpaqueHandle, 64},
    {"bool", kDLBool, 8},
};

// Codes whose name says everything
struct FixedCode {
  std::string_view name;
  uint8_t code;
  uint8_t bits;
};
constexpr FixedCode kFixed[] = {
    {"float8_e3m4", kDLFloat8_e3m4, 8},
    {"float8_e4m3", kDLFloat8_e4m3, 8},
    {"float8_e4m3b11fnuz", kDLFloat8_e4m3b11fnuz, 8},
    {"float8_e4m3fn", kDLFloat8_e4m3fn, 8},
    {"float8_e4m3fnuz", kDLFloat8_e4m3fnuz, 8},
    {"float8_e5m2", kDLFloat8_e5m2, 8},
    {"float8_e5m2fnuz", kDLFloat8_e5m2fnuz, 8},
    {"float8_e8m0fnu", kDLFloat8_e8m0fnu, 8},
    {"float6_e2m3fn", kDLFloat6_e2m3fn, 6},
    {"float6_e3m2fn", kDLFloat6_e3m2fn, 6},
    {"float4_e2m1fn", kDLFloat4_e2m1fn, 4},
};

struct Alias {
  std::string_view prefix;
  std::string_view name;
  bool before_digit;
};
constexpr Alias kAliases[] = {
    {"bf", "bfloat", true},     {"i", "int", true},         {"u", "uint", true},
    {"f", "float", true},       {"fp8_", "float8_", false}, {"fp6_", "float6_", false},
    {"fp4_", "float4_", false}, {"f8_", "float8_", false},  {"f6_", "float6_", false},
    {"f4_", "float4_", false},
};

bool is_digit(char c) { return c >= '0' && c <= '9'; }

// Takes digits off the front; false when there are none or more than `limit` of value
bool take_number(std::string_view* rest, uint32_t limit, uint32_t* out) {
  uint32_t value = 0;
  const auto [end, error] = std::from_chars(rest->data(), rest->data() + rest->size(), value);
  if (error != std::errc() || value > limit) return false;
  rest->remove_prefix(static_cast<size_t>(end - rest->data()));
  *out = value;
  return true;
}

// What stands behind the code and bits: nothing, "x" and lanes, or "xvscalex" and lanes
bool take_lanes(std::string_view rest, bool may_scale, uint16_t* out) {
  *out = 1;
  if (rest.empty()) return true;
  const bool scales = may_scale && rest.starts_with("xvscalex");
  rest.remove_prefix(scales ? 8 : 1);
  uint32_t lanes = 0;
  if (!take_number(&rest, INT16_MAX, &lanes) || lanes == 0 || !rest.empty()) return false;
  *out = static_cast<uint16_t>(scales ? -static_cast<int32_t>(lanes) : static_cast<int32_t>(lanes));
  return true;
}

bool parse(std::string_view name, DLDataType* out) {
  if (name.empty() || name == "void") {
    *out = {kDLOpaqueHandle, 0, 0};
    return true;
  }
  std::string full;
  for (const Alias& alias : kAliases) {
    if (!name.starts_with(alias.prefix)) continue;
    const std::string_view behind = name.substr(alias.prefix.size());
    if (alias.before_digit && (behind.empty() || !is_digit(behind[0]))) continue;
    if (alias.before_digit && behind.size() >= 2 && behind[1] == '_') continue;  // "f8_e4m3"
    full = concat(alias.name, behind);
    name = full;
    break;
  }
  for (const FixedCode& code : kFixed) {
    if (!name.starts_with(code.name)) continue;
    std::string_view rest = name.substr(code.name.size());
    if (code.bits == 4 && rest.starts_with("_x")) rest.remove_prefix(1);  // "float4_e2m1fn_x2"
    if (!rest.empty() && rest[0] != 'x') continue;
    uint16_t lanes = 1;
    if (!take_lanes(rest, false, &lanes)) return false;
    *out = {code.code, code.bits, lanes};
    return true;
  }
  for (const PlainCode& code : kPlain) {
    if (!name.starts_with(code.name)) continue;
    std::string_view rest = name.substr(code.name.size());
    uint32_t bits = 0;
    if (!rest.empty() && is_digit(rest[0]) && !take_number(&rest, UINT8_MAX, &bits)) return false;
    if (!rest.empty() && rest[0] != 'x') return false;
    uint16_t lanes = 1;
    if (!take_lanes(rest, true, &lanes)) return false;
    *out = {code.code, bits == 0 ? code.default_bits : static_cast<uint8_t>(bits), lanes};
    return true;
  }
  return false;
}

bool print(DLDataType dtype, std::string* out) {
  if (dtype.code == kDLOpaqueHandle && dtype.bits == 0 && dtype.lanes == 0) return true;
  std::string_view name;
  bool has_bits = false;
  for (const PlainCode& code : kPlain) {
    if (code.code != dtype.code) continue;
    name = code.name;
    has_bits = dtype.code != kDLBool || dtype.bits != 8;
  }
  for (const FixedCode& code : kFixed)
    if (code.code == dtype.code) name = code.name;
  if (name.empty()) return false;
  *out = name;
  if (dtype.code == kDLOpaqueHandle) return true;
  if (has_bits) *out += concat(dtype.bits);
  const auto lanes = static_cast<int16_t>(dtype.lanes);
  if (lanes > 1) *out += concat("x", lanes);
  if (lanes < 0) *out += concat("xvscalex", -static_cast<int32_t>(lanes));
  return true;
}

}  // namespace
}  // namespace sluice::ffi

using namespace sluice::ffi;  // NOLINT(google-build-using-namespace): the C functions below

extern "C" {

int TVMFFIDataTypeFromString(const TVMFFIByteArray* str, DLDataType* out) {
  constexpr std::string_view kName = "TVMFFIDataTypeFromString";
  if (str == nullptr || (str->data == nullptr && str->size != 0)) return raise_null(kName, "str");
  if (out == nullptr) return raise_null(kName, "out");
  DLDataType parsed{};
  if (!parse(text(*str), &parsed))
    return raise_value(sluice::concat(kName, ": ", sluice::quote(text(*str)), " is no dtype"));
  *out = parsed;
  return 0;
}

int TVMFFIDataTypeToString(const DLDataType* dtype, TVMFFIAny* out) {
  constexpr std::string_view kName = "TVMFFIDataTypeToString";
  if (dtype == nullptr) return raise_null(kName, "dtype");
  if (out == nullptr) return raise_null(kName, "out");
  std::string name;
  if (!print(*dtype, &name))
    return raise_value(sluice::concat(kName, ": no dtype has the code ", dtype->code, " (bits ",
                                      dtype->bits, ", lanes ", dtype->lanes, ")"));
  return make_string(name, out);
}

}  // extern "C"
