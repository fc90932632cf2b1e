// Functions: objects that call, and the global registry of them.
#include <vector>

#include "core/ffi/ordered_map.h"
#include "core/ffi/registry.h"
#include "core/ffi/types.h"

// Where a program defines it, the first use of the table of functions calls it, so that whoever
// asks for a function by name finds what the program brings, without having to start it first.
extern "C" __attribute__((weak)) void sluice_first_use();

namespace sluice::ffi {
namespace {

struct ExternFunction {
  FunctionObject base;
  void* self;
  TVMFFISafeCallType call;
  void (*deleter)(void* self);
};

void delete_extern(void* object, int flags) {
  auto* function = static_cast<ExternFunction*>(object);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskStrong) != 0 && function->deleter != nullptr)
    function->deleter(function->self);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) free_object(object);
}

int call_extern(void* handle, const TVMFFIAny* args, int32_t num_args, TVMFFIAny* result) {
  auto* function = static_cast<ExternFunction*>(handle);
  // The function may drop the last reference to itself while it runs
  const auto alive = Ref<FunctionObject>::share(&function->base);
  const int status = function->call(function->self, args, num_args, result);
  if (status != 0 && !has_raised())
    return raise("RuntimeError", concat("a function returned ", status, " and raised no error"));
  return status;
}

FunctionObject* new_function(void* self, TVMFFISafeCallType call, void (*deleter)(void*)) {
  auto* function = reinterpret_cast<ExternFunction*>(
      allocate_object(sizeof(ExternFunction), kTVMFFIFunction, delete_extern));
  if (function == nullptr) return nullptr;
  function->base.cell.safe_call = call_extern;
  function->self = self;
  function->call = call;
  function->deleter = deleter;
  return &function->base;
}

struct Functions {
  OrderedMap by_name;
  OrderedMap metadata;  // by name, where there is any
};

// Made at the first use, never destroyed: constructors of linked modules come at any time, and
// functions may belong to a host that is gone when destructors run
constinit Functions* functions = nullptr;

int add(std::span<const Builtin> builtins) {
  for (const Builtin& builtin : builtins) {
    if (functions->by_name.find(builtin.name) != nullptr)
      return raise("RuntimeError",
                   concat("the global function ", quote(builtin.name), " is registered already"));
    auto function = make_function(const_cast<Builtin*>(&builtin), builtin.call, nullptr);
    if (!function) return -1;
    if (functions->by_name.set(builtin.name, Any::adopt(of_object(std::move(function)))) != 0)
      return -1;
  }
  return 0;
}

Functions& table() {
  if (functions == nullptr) {
    functions = new Functions;
    // Names of this folder are distinct, so this fails only where memory ends
    for (const auto builtins : {function_builtins(), container_builtins(), module_builtins()})
      (void)add(builtins);
    if (sluice_first_use != nullptr) sluice_first_use();
  }
  return *functions;
}

int set_global(std::string_view name, TVMFFIObject* function, std::string_view metadata,
               bool allow_override) {
  Functions& all = table();
  if (!allow_override && all.by_name.find(name) != nullptr)
    return raise("RuntimeError",
                 concat("the global function ", quote(name), " is registered already"));
  if (metadata.empty()) {
    all.metadata.erase(name);
  } else {
    Any kept;
    if (make_string(metadata, kept.receive()) != 0 || all.metadata.set(name, std::move(kept)) != 0)
      return -1;
  }
  retain(function);
  return all.by_name.set(name, Any::adopt(of_object(function)));
}

// ---- Builtins ----

int remove_global(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view name;
  if (!args.expect(1) || !args.string(0, &name)) return -1;
  table().metadata.erase(name);
  *result = of_bool(table().by_name.erase(name));
  return 0;
}

// f(-1) is how many names there are, f(i) the i-th
int name_at(void* self, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  static constexpr Builtin kBuiltin = {"ffi.FunctionListGlobalNamesFunctor()", nullptr};
  const Args args(&kBuiltin, values, count);
  const auto* names = static_cast<const ArrayObject*>(self);
  int64_t wanted = 0;
  if (!args.expect(1) || !args.integer(0, &wanted)) return -1;
  if (wanted < 0) {
    *result = of_int(names->cell.size);
    return 0;
  }
  size_t index = 0;
  if (!args.index(0, static_cast<size_t>(names->cell.size), &index)) return -1;
  *result = Any::share(names->items()[index]).take();
  return 0;
}

void release_array(void* array) { release_nested(&static_cast<ArrayObject*>(array)->header); }

int list_global_names(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  if (!Args(handle, values, count).expect(0)) return -1;
  const OrderedMap& all = table().by_name;
  std::vector<TVMFFIAny> keys;
  keys.reserve(all.size());
  for (size_t i = all.next(0); i != all.end(); i = all.next(i + 1)) keys.push_back(all.key(i));
  auto names = make_array(keys.data(), keys.size());
  if (!names) return -1;
  auto function = make_function(names.take(), name_at, release_array);
  if (!function) return -1;
  *result = of_object(std::move(function));
  return 0;
}

int metadata_of(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view name;
  if (!args.expect(1) || !args.string(0, &name)) return -1;
  if (table().by_name.find(name) == nullptr)
    return raise("RuntimeError", concat(args.name(), ": no global function ", quote(name)));
  const TVMFFIAny* metadata = table().metadata.find(name);
  if (metadata == nullptr) return make_string("", result);
  *result = Any::share(*metadata).take();
  return 0;
}

int to_string(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  std::string_view content;
  if (!args.expect(1) || !args.string(0, &content)) return -1;
  return own(args.at(0), result);
}

int to_bytes(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1)) return -1;
  const TVMFFIAny value = args.at(0);
  switch (value.type_index) {
    case kTVMFFIByteArrayPtr:
    case kTVMFFISmallBytes:
    case kTVMFFIBytes:
      return own(value, result);
    default:
      return args.wrong(0, "bytes");
  }
}

int type_keys(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  if (!Args(handle, values, count).expect(0)) return -1;
  auto keys = registered_type_keys();
  if (!keys) return -1;
  *result = of_object(std::move(keys));
  return 0;
}

constexpr Builtin kBuiltins[] = {
    {"ffi.FunctionRemoveGlobal", remove_global},
    {"ffi.FunctionListGlobalNamesFunctor", list_global_names},
    {"ffi.GetGlobalFuncMetadata", metadata_of},
    {"ffi.String", to_string},
    {"ffi.Bytes", to_bytes},
    {"ffi.GetRegisteredTypeKeys", type_keys},
};

}  // namespace

std::span<const Builtin> function_builtins() { return kBuiltins; }

void initialize() {
  find_type(kTVMFFIObject);
  table();
}

int register_functions(std::span<const Builtin> builtins) {
  table();
  return add(builtins);
}

Ref<FunctionObject> find_function(std::string_view name) {
  const TVMFFIAny* found = table().by_name.find(name);
  if (found == nullptr) return {};
  return Ref<FunctionObject>::share(reinterpret_cast<FunctionObject*>(found->v_obj));
}

int call(FunctionObject* function, std::span<const TVMFFIAny> args, Any* result) {
  return function->cell.safe_call(function, args.data(), static_cast<int32_t>(args.size()),
                                  result->receive());
}

Ref<FunctionObject> make_function(void* self, TVMFFISafeCallType call, void (*deleter)(void*)) {
  FunctionObject* function = new_function(self, call, deleter);
  if (function == nullptr && deleter != nullptr) deleter(self);
  return Ref<FunctionObject>::adopt(function);
}

TVMFFIAny Args::at(int32_t i) const {
  const TVMFFIAny& value = values_[i];
  if (value.type_index != kTVMFFIObjectRValueRef) return value;
  auto* source = static_cast<TVMFFIObject**>(value.v_ptr);
  return of_object(source == nullptr ? nullptr : *source);
}

bool Args::expect(int32_t count) const {
  if (size_ == count) return true;
  raise_type(concat(name_, " takes ", count, " arguments, not ", size_));
  return false;
}

int Args::wrong(int32_t i, std::string_view expected) const {
  return raise_type(
      concat(name_, ": argument ", i, " must be ", expected, ", not ", type_key_of(at(i))));
}

bool Args::integer(int32_t i, int64_t* out) const {
  const TVMFFIAny value = at(i);
  if (value.type_index != kTVMFFIInt && value.type_index != kTVMFFIBool) {
    wrong(i, "int");
    return false;
  }
  *out = value.v_int64;
  return true;
}

bool Args::boolean(int32_t i, bool* out) const {
  const TVMFFIAny value = at(i);
  if (value.type_index != kTVMFFIInt && value.type_index != kTVMFFIBool) {
    wrong(i, "bool");
    return false;
  }
  *out = value.v_int64 != 0;
  return true;
}

bool Args::string(int32_t i, std::string_view* out) const {
  const TVMFFIAny value = at(i);
  const bool is_string = value.type_index == kTVMFFIRawStr || value.type_index == kTVMFFISmallStr ||
                         value.type_index == kTVMFFIStr;
  // A small string stands in the caller's array, not in the copy
  *out = is_string ? text(value.type_index == kTVMFFISmallStr ? values_[i] : value)
                   : std::string_view();
  if (out->data() == nullptr) {
    wrong(i, "a string");
    return false;
  }
  return true;
}

bool Args::number(int32_t i, double* out) const {
  const TVMFFIAny value = at(i);
  switch (value.type_index) {
    case kTVMFFIFloat:
      *out = value.v_float64;
      return true;
    case kTVMFFIInt:
    case kTVMFFIBool:
      *out = static_cast<double>(value.v_int64);
      return true;
    default:
      wrong(i, "a number");
      return false;
  }
}

bool Args::bytes(int32_t i, std::string_view* out) const {
  const TVMFFIAny value = at(i);
  const bool is_bytes = value.type_index == kTVMFFIByteArrayPtr ||
                        value.type_index == kTVMFFISmallBytes || value.type_index == kTVMFFIBytes;
  // As with a small string
  *out = is_bytes ? text(value.type_index == kTVMFFISmallBytes ? values_[i] : value)
                  : std::string_view();
  if (out->data() != nullptr) return true;
  wrong(i, "bytes");
  return false;
}

bool Args::dtype(int32_t i, DLDataType* out) const {
  const TVMFFIAny value = at(i);
  if (value.type_index == kTVMFFIDataType) {
    *out = value.v_dtype;
    return true;
  }
  const bool is_string = value.type_index == kTVMFFIRawStr || value.type_index == kTVMFFISmallStr ||
                         value.type_index == kTVMFFIStr;
  std::string_view name;
  if (!is_string || !string(i, &name)) {
    wrong(i, "a dtype");
    return false;
  }
  const TVMFFIByteArray bytes_of_name = {name.data(), name.size()};
  return TVMFFIDataTypeFromString(&bytes_of_name, out) == 0;
}

bool Args::device(int32_t i, DLDevice* out) const {
  const TVMFFIAny value = at(i);
  if (value.type_index != kTVMFFIDevice) {
    wrong(i, "a device");
    return false;
  }
  *out = value.v_device;
  return true;
}

const DLTensor* Args::tensor(int32_t i) const {
  const TVMFFIAny value = at(i);
  if (value.type_index == kTVMFFIDLTensorPtr && value.v_ptr != nullptr)
    return static_cast<const DLTensor*>(value.v_ptr);
  if (value.type_index == kTVMFFITensor && value.v_obj != nullptr &&
      value.v_obj->type_index == kTVMFFITensor)
    return &reinterpret_cast<const TensorObject*>(value.v_obj)->tensor;
  wrong(i, "a tensor");
  return nullptr;
}

bool Args::shape(int32_t i, std::vector<int64_t>* storage, std::span<const int64_t>* out) const {
  const TVMFFIAny value = at(i);
  const bool is_valid = is_object(value.type_index) && value.v_obj != nullptr &&
                        value.v_obj->type_index == value.type_index;
  if (is_valid && value.type_index == kTVMFFIShape) {
    const auto& cell = reinterpret_cast<const ShapeObject*>(value.v_obj)->cell;
    *out = {cell.data, cell.size};
    return true;
  }
  if (!is_valid || value.type_index != kTVMFFIArray) {
    wrong(i, "a shape");
    return false;
  }
  const auto* array = reinterpret_cast<const ArrayObject*>(value.v_obj);
  storage->clear();
  for (int64_t at = 0; at < array->cell.size; ++at) {
    const TVMFFIAny& extent = array->items()[at];
    if (extent.type_index != kTVMFFIInt) {
      raise_type(concat(name_, ": argument ", i, " must be a shape, but element ", at,
                        " of the array is ", type_key_of(extent)));
      return false;
    }
    storage->push_back(extent.v_int64);
  }
  *out = *storage;
  return true;
}

bool Args::owned(int32_t i, Any* out) const { return own(values_[i], out->receive()) == 0; }

bool Args::index(int32_t i, size_t size, size_t* out) const {
  int64_t wanted = 0;
  if (!integer(i, &wanted)) return false;
  if (wanted < 0 || static_cast<uint64_t>(wanted) >= size) {
    raise("IndexError", concat(name_, ": index ", wanted, " of ", size, " elements"));
    return false;
  }
  *out = static_cast<size_t>(wanted);
  return true;
}

TVMFFIObject* Args::object(int32_t i, int32_t type_index) const {
  const TVMFFIAny value = at(i);
  if (value.type_index != type_index || value.v_obj == nullptr ||
      value.v_obj->type_index != type_index) {
    wrong(i, type_key(type_index));
    return nullptr;
  }
  return value.v_obj;
}

}  // namespace sluice::ffi

using namespace sluice::ffi;  // NOLINT(google-build-using-namespace): the C functions below

namespace {

// Whether `name` can name something
bool check_name(std::string_view function, const TVMFFIByteArray* name) {
  if (name == nullptr || (name->data == nullptr && name->size != 0)) {
    raise_null(function, "name");
    return false;
  }
  if (name->size == 0) {
    raise_value(sluice::concat(function, ": the name is empty"));
    return false;
  }
  return true;
}

}  // namespace

extern "C" {

int TVMFFIFunctionCreate(void* self, TVMFFISafeCallType safe_call, void (*deleter)(void* self),
                         TVMFFIObjectHandle* out) {
  if (safe_call == nullptr) return raise_null("TVMFFIFunctionCreate", "safe_call");
  if (out == nullptr) return raise_null("TVMFFIFunctionCreate", "out");
  FunctionObject* function = new_function(self, safe_call, deleter);
  if (function == nullptr) return -1;
  *out = function;
  return 0;
}

int TVMFFIFunctionCall(TVMFFIObjectHandle func, TVMFFIAny* args, int32_t num_args,
                       TVMFFIAny* result) {
  auto* function = reinterpret_cast<FunctionObject*>(
      checked_object(func, kTVMFFIFunction, "TVMFFIFunctionCall", "func"));
  if (function == nullptr) return -1;
  if (num_args < 0)
    return raise_value(sluice::concat("TVMFFIFunctionCall: num_args is ", num_args));
  if (args == nullptr && num_args != 0) return raise_null("TVMFFIFunctionCall", "args");
  if (result == nullptr) return raise_null("TVMFFIFunctionCall", "result");
  if (function->cell.safe_call == nullptr) return raise_null("TVMFFIFunctionCall", "func's call");
  return function->cell.safe_call(func, args, num_args, result);
}

int TVMFFIFunctionSetGlobal(const TVMFFIByteArray* name, TVMFFIObjectHandle f, int allow_override) {
  if (!check_name("TVMFFIFunctionSetGlobal", name)) return -1;
  TVMFFIObject* function = checked_object(f, kTVMFFIFunction, "TVMFFIFunctionSetGlobal", "f");
  if (function == nullptr) return -1;
  return set_global(text(*name), function, {}, allow_override != 0);
}

int TVMFFIFunctionSetGlobalFromMethodInfo(const TVMFFIMethodInfo* method_info, int allow_override) {
  constexpr std::string_view kName = "TVMFFIFunctionSetGlobalFromMethodInfo";
  if (method_info == nullptr) return raise_null(kName, "method_info");
  if (!check_name(kName, &method_info->name)) return -1;
  if (method_info->metadata.data == nullptr && method_info->metadata.size != 0)
    return raise_null(kName, "metadata");
  if (method_info->method.type_index != kTVMFFIFunction)
    return raise_type(sluice::concat(kName, ": method must be ffi.Function, not ",
                                     type_key_of(method_info->method)));
  TVMFFIObject* function =
      checked_object(method_info->method.v_obj, kTVMFFIFunction, kName, "method");
  if (function == nullptr) return -1;
  return set_global(text(method_info->name), function, text(method_info->metadata),
                    allow_override != 0);
}

int TVMFFIFunctionGetGlobal(const TVMFFIByteArray* name, TVMFFIObjectHandle* out) {
  if (out == nullptr) return raise_null("TVMFFIFunctionGetGlobal", "out");
  *out = nullptr;
  if (name == nullptr || (name->data == nullptr && name->size != 0))
    return raise_null("TVMFFIFunctionGetGlobal", "name");
  *out = find_function(text(*name)).take();
  return 0;
}

}  // extern "C"
