#include "core/base/json.h"

#include "core/base/expect_error.h"

namespace sluice {
namespace {

using enum ErrorCode;

std::string round_trip(std::string_view text) {
  const auto value = parse_json(text, "m.json");
  return value ? value->dump() : to_string(value.error());
}

TEST(Json, KeepsOrderKindsAndAllBitsOfIntegers) {
  const std::string_view text =
      R"({"z":[1,-3,1.5,true,null],"a":{"max":18446744073709551615,"min":-9223372036854775808}})";
  EXPECT_EQ(round_trip(text), text);
}

TEST(Json, NumbersOutsideIntegersAreNotTakenForThem) {
  for (const std::string_view text : {"-1", "1.5", "18446744073709551616", "1e3", "1.0"}) {
    const auto value = parse_json(text, "m.json");
    ASSERT_TRUE(value) << text;
    EXPECT_EQ(value->as_uint(), nullptr) << text;
  }
  EXPECT_EQ(*parse_json("0", "m.json")->as_uint(), 0u);
}

TEST(Json, DescribesKindAndValue) {
  const auto text = [](std::string_view json) { return parse_json(json, "m.json")->describe(); };
  EXPECT_EQ(text("-3"), "the number -3");
  EXPECT_EQ(text("1.5"), "the number 1.5");
  EXPECT_EQ(text("true"), "the boolean true");
  EXPECT_EQ(text("null"), "null");
  EXPECT_EQ(text(R"("x")"), "a string");
  EXPECT_EQ(text("[]"), "an array");
  EXPECT_EQ(text("{}"), "an object");
}

TEST(Json, FindsMembers) {
  const auto value = parse_json(R"({"a":1,"b":"x"})", "m.json");
  EXPECT_EQ(*value->find("b")->as_string(), "x");
  EXPECT_EQ(value->find("c"), nullptr);
  EXPECT_EQ(parse_json("[1]", "m.json")->find("a"), nullptr);
}

TEST(Json, BadTextNamesFileAndPlace) {
  const std::vector<std::pair<std::string, std::string_view>> cases = {
      {"", "byte"},
      {"[1,", "byte 4"},
      {"{} 1", "end of the text"},
      {"[1 2]", "',' or ']'"},
      {"{\"a\":1,}", "a key"},
      {"[1,]", "a value"},
      {"{1:2}", "a key"},
      {"nul", "invalid literal"},
      {"{\"a\" 1}", "expected ':'"},
      {"\"\xff\"", "UTF-8"},
      {"1e999", "overflow"},
      {std::string("\"a\0b\"", 5), "control character"},
      {"\"" + std::string(1'000'000, 'x'), "byte"},
  };
  for (const auto& [text, piece] : cases) {
    const auto value = parse_json(text, "m.json");
    expect_error(value, manifest_invalid, {"m.json", piece});
    EXPECT_EQ(value.error().file, "m.json");
    EXPECT_LT(value.error().message.size(), 400u);
  }
}

TEST(Json, DepthIsLimited) {
  EXPECT_TRUE(parse_json(std::string(64, '[') + std::string(64, ']'), "m.json"));
  expect_error(parse_json(std::string(65, '[') + std::string(65, ']'), "m.json"), manifest_invalid,
               {"m.json", "64"});
  expect_error(parse_json(std::string(1'000'000, '['), "m.json"), manifest_invalid, {"64"});
  std::string objects;
  for (int i = 0; i < 100'000; ++i) objects += "{\"a\":";
  expect_error(parse_json(objects, "m.json"), manifest_invalid, {"64"});
}

TEST(Json, KeysStandOnceInAnObject) {
  expect_error(parse_json(R"({"a":1,"b":2,"a":3})", "m.json"), manifest_invalid, {"'a'", "m.json"});
  expect_error(parse_json(R"([{"x":{"k":1,"k":1}}])", "m.json"), manifest_invalid, {"'k'"});
  EXPECT_TRUE(parse_json(R"([{"a":1},{"a":{"a":2}}])", "m.json"));
  EXPECT_TRUE(parse_json(R"({"a":1,"\u0041":2})", "m.json"));
  expect_error(parse_json(R"({"A":1,"\u0041":2})", "m.json"), manifest_invalid, {"'A'"});
}

// Would take minutes if the search for duplicates were quadratic.
TEST(Json, ManyKeysAreSearchedQuickly) {
  std::string text = "{";
  for (int i = 0; i < 300'000; ++i) text += concat("\"key", i, "\":0,");
  EXPECT_EQ(parse_json(text + "\"end\":0}", "m.json")->as_object()->size(), 300'001u);
  expect_error(parse_json(text + "\"key7\":0}", "m.json"), manifest_invalid, {"'key7'"});
}

TEST(Json, TheNumberOfValuesIsLimited) {
  std::string text = "[0";
  for (int i = 0; i < (4 << 20); ++i) text += ",0";
  expect_error(parse_json(text + "]", "m.json"), manifest_invalid, {"m.json", "4194304"});
}

TEST(JsonWriter, EscapesAndReplacesWhatIsNotUtf8) {
  const auto write = [](std::string_view text) {
    JsonWriter out;
    out.string(text);
    return std::move(out).take();
  };
  EXPECT_EQ(write("a\"b\\c\n\t\x01"), R"("a\"b\\c\n\u0009\u0001")");
  EXPECT_EQ(write("é€😀"), "\"é€😀\"");
  EXPECT_EQ(write("\xff"), "\"\uFFFD\"");
  EXPECT_EQ(write("\xC0\xAF"), "\"\uFFFD\uFFFD\"");                      // overlong
  EXPECT_EQ(write("\xED\xA0\x80"), "\"\uFFFD\uFFFD\uFFFD\"");            // a surrogate
  EXPECT_EQ(write("\xF4\x90\x80\x80"), "\"\uFFFD\uFFFD\uFFFD\uFFFD\"");  // beyond U+10FFFF
  EXPECT_EQ(write("\xE2\x82"), "\"\uFFFD\uFFFD\"");                      // cut short
}

// Whatever bytes a name is made of, what is written parses.
TEST(JsonWriter, EveryPairOfBytesParses) {
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      const std::string text{static_cast<char>(a), static_cast<char>(b)};
      JsonWriter out;
      out.begin_object().key(text).string(text).end_object();
      EXPECT_TRUE(parse_json(std::move(out).take(), "m.json")) << a << ' ' << b;
    }
  }
}

TEST(JsonWriter, SeparatesMembersAndElements) {
  JsonWriter out;
  out.begin_object();
  out.key("a").begin_array().number(uint64_t{1}).number(int64_t{-2}).number(0.5).end_array();
  out.key("b").raw("{\"x\":1}");
  out.key("c").begin_array().end_array();
  out.key("d").boolean(false);
  out.key("e").null();
  out.key("f").number(1.0 / 0.0);
  out.end_object();
  EXPECT_EQ(std::move(out).take(),
            R"({"a":[1,-2,0.5],"b":{"x":1},"c":[],"d":false,"e":null,"f":null})");
}

TEST(JsonWriter, DoublesKeepTheirValue) {
  for (const double value : {0.0, -0.1, 1.0 / 3, 1e-300, 1.7976931348623157e308, 5e-324, 1e5}) {
    JsonWriter out;
    out.number(value);
    EXPECT_EQ(std::strtod(std::move(out).take().c_str(), nullptr), value);
  }
}

}  // namespace
}  // namespace sluice
