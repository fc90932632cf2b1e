// Raised errors, error objects, and errors across calls.
#include <string>

#include "core/ffi/registry.h"
#include "core/ffi/test_support.h"

namespace sluice::ffi {
namespace {

Handle make_error_object(std::string_view kind, std::string_view message,
                         std::string_view backtrace, TVMFFIObjectHandle cause = nullptr,
                         TVMFFIObjectHandle context = nullptr) {
  const TVMFFIByteArray texts[] = {bytes_of(kind), bytes_of(message), bytes_of(backtrace)};
  Handle error;
  EXPECT_EQ(TVMFFIErrorCreateWithCauseAndExtraContext(&texts[0], &texts[1], &texts[2], cause,
                                                      context, error.receive()),
            0);
  return error;
}

const TVMFFIErrorCell& cell_of(const Handle& error) {
  return reinterpret_cast<ErrorObject*>(error.get())->cell;
}

TEST(Errors, AreFetchedOnceAndTheLastRaisedWins) {
  EXPECT_EQ(take_raised().kind, "");
  TVMFFIErrorSetRaisedFromCStr("KeyError", "the first");
  TVMFFIErrorSetRaisedFromCStr("IndexError", "the second");
  const Raised raised = take_raised();
  EXPECT_EQ(raised.kind, "IndexError");
  EXPECT_EQ(raised.message, "the second");
  EXPECT_EQ(take_raised().kind, "");
  TVMFFIErrorMoveFromRaised(nullptr);
}

TEST(Errors, PartsAreJoinedAndNullOnesSkipped) {
  const char* parts[] = {"Argument ", nullptr, "1", " mismatch"};
  TVMFFIErrorSetRaisedFromCStrParts("TypeError", parts, 4);
  EXPECT_EQ(take_raised().message, "Argument 1 mismatch");
  TVMFFIErrorSetRaisedFromCStrParts("TypeError", nullptr, 4);
  EXPECT_EQ(take_raised().message, "");
  TVMFFIErrorSetRaisedFromCStrParts(nullptr, parts, -1);
  EXPECT_EQ(take_raised().message, "");
  TVMFFIErrorSetRaisedFromCStr(nullptr, nullptr);
  EXPECT_EQ(take_raised().kind, "");
}

TEST(Errors, CarryTheirBacktrace) {
  const Handle error = make_error_object("ValueError", "no", "a\n");
  const TVMFFIErrorCell& cell = cell_of(error);
  EXPECT_EQ(text(cell.backtrace), "a\n");
  const TVMFFIByteArray more = bytes_of("b\n");
  cell.update_backtrace(error.get(), &more, kTVMFFIBacktraceUpdateModeAppend);
  EXPECT_EQ(text(cell.backtrace), "a\nb\n");
  // Its own text, twice
  const TVMFFIByteArray own_text = cell.backtrace;
  cell.update_backtrace(error.get(), &own_text, kTVMFFIBacktraceUpdateModeAppend);
  EXPECT_EQ(text(cell.backtrace), "a\nb\na\nb\n");
  const TVMFFIByteArray other = bytes_of("c\n"), hollow = {nullptr, 3};
  cell.update_backtrace(error.get(), &other, kTVMFFIBacktraceUpdateModeReplace);
  cell.update_backtrace(error.get(), &hollow, kTVMFFIBacktraceUpdateModeReplace);
  cell.update_backtrace(error.get(), nullptr, kTVMFFIBacktraceUpdateModeReplace);
  EXPECT_EQ(text(cell.backtrace), "c\n");
}

TEST(Errors, OwnTheirCauseAndContext) {
  Handle cause = make_error_object("KeyError", "inner", "");
  const Any context = call("ffi.Array", {of_int(1)});
  {
    const Handle error =
        make_error_object("ValueError", "outer", "", cause.get(), context.view().v_obj);
    EXPECT_EQ(cell_of(error).cause_chain, cause.get());
    EXPECT_EQ(cell_of(error).extra_context, context.view().v_obj);
    EXPECT_EQ(strong_count(cause.object()), 2u);
    EXPECT_EQ(strong_count(context.view().v_obj), 2u);
  }
  EXPECT_EQ(strong_count(cause.object()), 1u);
  EXPECT_EQ(strong_count(context.view().v_obj), 1u);
}

TEST(Errors, AChainOfAMillionCausesIsReleased) {
  Handle error;
  for (int i = 0; i < 1'000'000; ++i) error = make_error_object("E", "m", "", error.get());
}

TEST(Errors, CreatingRefusesNullAndWrongCauses) {
  const TVMFFIByteArray good = bytes_of("x"), hollow = {nullptr, 1};
  const Any array = call("ffi.Array", {});
  TVMFFIObjectHandle out = nullptr;
  EXPECT_NE(TVMFFIErrorCreate(nullptr, &good, &good, &out), 0);
  EXPECT_NE(TVMFFIErrorCreate(&good, &hollow, &good, &out), 0);
  EXPECT_NE(TVMFFIErrorCreate(&good, &good, nullptr, &out), 0);
  EXPECT_NE(TVMFFIErrorCreate(&good, &good, &good, nullptr), 0);
  EXPECT_NE(TVMFFIErrorCreateWithCauseAndExtraContext(&good, &good, &good, array.view().v_obj,
                                                      nullptr, &out),
            0);
  EXPECT_EQ(out, nullptr);
  EXPECT_EQ(take_raised().kind, "") << "these two raise nothing";
}

TEST(Errors, OnlyErrorsAreRaised) {
  const Any array = call("ffi.Array", {});
  TVMFFIErrorSetRaised(array.view().v_obj);
  EXPECT_EQ(take_raised().kind, "TypeError");
  const Handle error = make_error_object("ValueError", "raised", "");
  TVMFFIErrorSetRaised(error.get());
  EXPECT_EQ(strong_count(error.object()), 2u) << "the caller keeps its own";
  TVMFFIErrorSetRaised(nullptr);
  EXPECT_EQ(take_raised().kind, "") << "null clears";
}

TEST(Errors, OfTheCoreKeepTheirCodeAndHint) {
  EXPECT_EQ(raise(Error{.code = ErrorCode::device_limit,
                        .message = "tensor 'w' needs 2 GiB",
                        .hint = "use another device"}),
            -1);
  const Raised raised = take_raised();
  EXPECT_EQ(raised.kind, "device_limit");
  EXPECT_EQ(raised.message, "tensor 'w' needs 2 GiB (use another device)");
  raise(Error{.code = ErrorCode::invalid_argument, .message = "no"});
  EXPECT_EQ(take_raised().kind, "ValueError");
}

// Fails with what it is told, through as many functions as there are in `self`
int fail(void* self, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  if (self != nullptr)
    return TVMFFIFunctionCall(self, const_cast<TVMFFIAny*>(args), num_args, result);
  TVMFFIErrorSetRaisedFromCStr("KeyError", args[0].v_c_str);
  return -1;
}

TEST(Errors, CrossCallsUnchanged) {
  Handle inner, outer;
  ASSERT_EQ(TVMFFIFunctionCreate(nullptr, fail, nullptr, inner.receive()), 0);
  ASSERT_EQ(TVMFFIFunctionCreate(inner.get(), fail, nullptr, outer.receive()), 0);
  TVMFFIAny arg = of_text("from the inner"), result{};
  expect_raised(TVMFFIFunctionCall(outer.get(), &arg, 1, &result), "KeyError", {"from the inner"});
  EXPECT_EQ(result.type_index, kTVMFFINone);
}

TEST(Errors, AFailureWithoutAnErrorGetsOne) {
  Handle function;
  ASSERT_EQ(TVMFFIFunctionCreate(
                nullptr, [](void*, const TVMFFIAny*, int32_t, TVMFFIAny*) { return 7; }, nullptr,
                function.receive()),
            0);
  TVMFFIAny result{};
  expect_raised(TVMFFIFunctionCall(function.get(), nullptr, 0, &result), "RuntimeError", {"7"});
}

}  // namespace
}  // namespace sluice::ffi
