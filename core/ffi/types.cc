#include "core/ffi/types.h"

#include <memory>
#include <string>
#include <vector>

#include "core/ffi/ordered_map.h"

namespace sluice::ffi {
namespace {

// Indices beyond this are refused, so that a wrong number of slots takes no memory
constexpr int64_t kMaxTypes = 1 << 20;

struct Type : TVMFFITypeInfo {
  std::vector<const TVMFFITypeInfo*> ancestors;
  std::vector<TVMFFIFieldInfo> own_fields;
  std::vector<TVMFFIMethodInfo> own_methods;
  TVMFFITypeMetadata own_metadata;
  // The indices [type_index, type_index + slots) are for the type and its children
  int32_t slots;
  int32_t used_slots;
  bool can_overflow;
};

struct Column {
  TVMFFITypeAttrColumn header;
  std::vector<TVMFFIAny> values;  // by type index
};

// Keys, names, types and columns stay where they are as long as the program runs: others point to
// them.
struct Types {
  std::vector<Type*> by_index = std::vector<Type*>(kTVMFFIDynObjectBegin);
  OrderedMap by_key;   // int
  OrderedMap columns;  // Column*, by name
};

constinit Types* types = nullptr;

// A copy that is never freed. An empty text has no memory.
TVMFFIByteArray keep(std::string_view content) {
  if (content.empty()) return {nullptr, 0};
  auto* kept = new char[content.size() + 1];
  std::memcpy(kept, content.data(), content.size());
  kept[content.size()] = 0;
  return {kept, content.size()};
}

Type* insert(std::string_view key, int32_t index, int32_t depth, int32_t slots, bool can_overflow,
             const Type* parent) {
  auto* type = new Type{};
  type->slots = slots;
  type->used_slots = 1;
  type->can_overflow = can_overflow && (parent == nullptr || parent->can_overflow);
  if (parent != nullptr) {
    type->ancestors = parent->ancestors;
    type->ancestors.push_back(parent);
  }
  type->type_index = index;
  type->type_depth = depth;
  type->type_key = keep(key);
  type->type_ancestors = type->ancestors.data();
  if (types->by_key.set(key, Any::adopt(of_int(index))) != 0) return nullptr;
  type->type_key_hash = hash(types->by_key.key(types->by_key.end() - 1));
  types->by_index[static_cast<size_t>(index)] = type;
  return type;
}

struct StaticType {
  int32_t index;
  const char* key;
};

constexpr StaticType kValues[] = {
    {kTVMFFINone, "None"},
    {kTVMFFIInt, "int"},
    {kTVMFFIBool, "bool"},
    {kTVMFFIFloat, "float"},
    {kTVMFFIOpaquePtr, "void*"},
    {kTVMFFIDataType, "DataType"},
    {kTVMFFIDevice, "Device"},
    {kTVMFFIDLTensorPtr, "DLTensor*"},
    {kTVMFFIRawStr, "const char*"},
    {kTVMFFIByteArrayPtr, "TVMFFIByteArray*"},
    {kTVMFFIObjectRValueRef, "ObjectRValueRef"},
    {kTVMFFISmallStr, "ffi.SmallStr"},
    {kTVMFFISmallBytes, "ffi.SmallBytes"},
    {kTVMFFIUnchanged, "ffi.Unchanged"},
};

constexpr StaticType kObjects[] = {
    {kTVMFFIStr, "ffi.String"},    {kTVMFFIBytes, "ffi.Bytes"},
    {kTVMFFIError, "ffi.Error"},   {kTVMFFIFunction, "ffi.Function"},
    {kTVMFFIShape, "ffi.Shape"},   {kTVMFFITensor, "ffi.Tensor"},
    {kTVMFFIArray, "ffi.Array"},   {kTVMFFIMap, "ffi.Map"},
    {kTVMFFIModule, "ffi.Module"}, {kTVMFFIOpaquePyObject, "ffi.OpaquePyObject"},
    {kTVMFFIList, "ffi.List"},     {kTVMFFIDict, "ffi.Dict"},
    {kTVMFFIBigInt, "ffi.BigInt"},
};

Types& table() {
  if (types != nullptr) return *types;
  types = new Types;
  Type* object = insert("ffi.Object", kTVMFFIObject, 0, 1, true, nullptr);
  object->own_metadata.total_size = sizeof(TVMFFIObject);
  object->metadata = &object->own_metadata;
  for (const StaticType& type : kValues) insert(type.key, type.index, 0, 1, false, nullptr);
  for (const StaticType& type : kObjects) insert(type.key, type.index, 1, 1, false, object);
  return *types;
}

Type* type_at(int32_t index) {
  const Types& all = table();
  return index >= 0 && static_cast<size_t>(index) < all.by_index.size()
             ? all.by_index[static_cast<size_t>(index)]
             : nullptr;
}

// The type, or null after raising an error
Type* checked_type(int32_t index, std::string_view function) {
  Type* type = type_at(index);
  if (type == nullptr) raise_value(concat(function, ": no type has the index ", index));
  return type;
}

bool is_text(const TVMFFIByteArray& bytes) { return bytes.data != nullptr || bytes.size == 0; }

// The index for a new type, or -1 after raising an error
int32_t allocate_index(std::string_view key, int32_t static_index, int32_t child_slots,
                       Type* parent) {
  Types& all = table();
  const int32_t slots = child_slots + 1;
  if (static_index >= 0) {
    if (static_index > kTVMFFIDynObjectBegin - slots)
      return raise_value(concat("type ", quote(key), ": the static index ", static_index, " and ",
                                child_slots, " for children are not below 128"));
    // The slots of another type are for its children, whether they are there yet or not
    for (int32_t i = static_index + slots; i-- > 0;) {
      const Type* other = all.by_index[static_cast<size_t>(i)];
      if (other != nullptr && other->type_index + other->slots > static_index)
        return raise_value(concat("type ", quote(key), ": the static index ", static_index,
                                  slots == 1 ? "" : ", or one of its children's,", " belongs to ",
                                  text(other->type_key)));
    }
    return static_index;
  }
  if (parent == nullptr)
    return raise_value(concat("type ", quote(key), " has neither a static index nor a parent"));
  if (slots <= parent->slots - parent->used_slots) {
    const int32_t index = parent->type_index + parent->used_slots;
    parent->used_slots += slots;
    return index;
  }
  if (!parent->can_overflow)
    return raise_value(concat("type ", quote(key), ": no slot is left of the ", parent->slots,
                              " of ", text(parent->type_key)));
  const auto index = static_cast<int64_t>(all.by_index.size());
  if (index + slots > kMaxTypes)
    return raise_value(concat("type ", quote(key), ": ", slots, " slots are beyond the ", kMaxTypes,
                              " types there can be"));
  all.by_index.resize(static_cast<size_t>(index + slots));
  return static_cast<int32_t>(index);
}

}  // namespace

const TVMFFITypeInfo* find_type(int32_t type_index) { return type_at(type_index); }

Ref<ArrayObject> registered_type_keys() {
  const OrderedMap& keys = table().by_key;
  std::vector<TVMFFIAny> views;
  views.reserve(keys.size());
  for (const Type* type : table().by_index) {
    if (type == nullptr) continue;
    TVMFFIAny view{};
    view.type_index = kTVMFFIRawStr;
    view.v_c_str = type->type_key.data;
    views.push_back(view);
  }
  return make_array(views.data(), views.size());
}

}  // namespace sluice::ffi

using namespace sluice::ffi;  // NOLINT(google-build-using-namespace): the C functions below
using sluice::concat;

extern "C" {

int TVMFFITypeKeyToIndex(const TVMFFIByteArray* type_key, int32_t* out_tindex) {
  constexpr std::string_view kName = "TVMFFITypeKeyToIndex";
  if (type_key == nullptr || !is_text(*type_key)) return raise_null(kName, "type_key");
  if (out_tindex == nullptr) return raise_null(kName, "out_tindex");
  const TVMFFIAny* index = table().by_key.find(text(*type_key));
  if (index == nullptr)
    return raise_value(concat(kName, ": no type ", sluice::quote(text(*type_key))));
  *out_tindex = static_cast<int32_t>(index->v_int64);
  return 0;
}

int32_t TVMFFITypeGetOrAllocIndex(const TVMFFIByteArray* type_key, int32_t static_type_index,
                                  int32_t type_depth, int32_t num_child_slots,
                                  int32_t child_slots_can_overflow, int32_t parent_type_index) {
  constexpr std::string_view kName = "TVMFFITypeGetOrAllocIndex";
  if (type_key == nullptr || type_key->data == nullptr || type_key->size == 0)
    return raise_null(kName, "type_key");
  const std::string_view key = text(*type_key);
  const TVMFFIAny* known = table().by_key.find(key);
  if (known != nullptr) return static_cast<int32_t>(known->v_int64);
  if (parent_type_index == -2) return -2;
  Type* parent = nullptr;
  if (parent_type_index >= 0) {
    parent = checked_type(parent_type_index, kName);
    if (parent == nullptr) return -1;
  }
  const int32_t depth = parent == nullptr ? 0 : parent->type_depth + 1;
  if (type_depth != depth)
    return raise_value(concat(kName, ": type ", sluice::quote(key), " says depth ", type_depth,
                              ", its parent makes it ", depth));
  if (num_child_slots < 0 || num_child_slots >= kMaxTypes)
    return raise_value(concat(kName, ": type ", sluice::quote(key), " wants ", num_child_slots,
                              " slots for children"));
  const int32_t index = allocate_index(key, static_type_index, num_child_slots, parent);
  if (index < 0) return -1;
  const Type* type =
      insert(key, index, depth, num_child_slots + 1, child_slots_can_overflow != 0, parent);
  return type == nullptr ? -1 : index;
}

const TVMFFITypeInfo* TVMFFIGetTypeInfo(int32_t type_index) {
  return checked_type(type_index, "TVMFFIGetTypeInfo");
}

int TVMFFITypeRegisterField(int32_t type_index, const TVMFFIFieldInfo* info) {
  constexpr std::string_view kName = "TVMFFITypeRegisterField";
  if (info == nullptr) return raise_null(kName, "info");
  if (info->name.data == nullptr || !is_text(info->doc) || !is_text(info->metadata))
    return raise_null(kName, "a text of info");
  Type* type = checked_type(type_index, kName);
  if (type == nullptr) return -1;
  for (const TVMFFIFieldInfo& field : type->own_fields)
    if (text(field.name) == text(info->name))
      return raise_value(concat(kName, ": type ", text(type->type_key), " has a field ",
                                sluice::quote(text(info->name)), " already"));
  TVMFFIFieldInfo field = *info;
  field.default_value_or_factory = none();
  if ((info->flags & kTVMFFIFieldFlagBitMaskHasDefault) != 0 &&
      own(info->default_value_or_factory, &field.default_value_or_factory) != 0)
    return -1;
  if ((info->flags & kTVMFFIFieldFlagBitSetterIsFunctionObj) != 0 && info->setter != nullptr) {
    TVMFFIObject* setter = checked_object(info->setter, kTVMFFIFunction, kName, "setter");
    if (setter == nullptr) return -1;
    retain(setter);
  }
  field.name = keep(text(info->name));
  field.doc = keep(text(info->doc));
  field.metadata = keep(text(info->metadata));
  type->own_fields.push_back(field);
  type->fields = type->own_fields.data();
  type->num_fields = static_cast<int32_t>(type->own_fields.size());
  return 0;
}

int TVMFFITypeRegisterMethod(int32_t type_index, const TVMFFIMethodInfo* info) {
  constexpr std::string_view kName = "TVMFFITypeRegisterMethod";
  if (info == nullptr) return raise_null(kName, "info");
  if (info->name.data == nullptr || !is_text(info->doc) || !is_text(info->metadata))
    return raise_null(kName, "a text of info");
  Type* type = checked_type(type_index, kName);
  if (type == nullptr) return -1;
  TVMFFIMethodInfo method = *info;
  if (own(info->method, &method.method) != 0) return -1;
  method.name = keep(text(info->name));
  method.doc = keep(text(info->doc));
  method.metadata = keep(text(info->metadata));
  type->own_methods.push_back(method);
  type->methods = type->own_methods.data();
  type->num_methods = static_cast<int32_t>(type->own_methods.size());
  return 0;
}

int TVMFFITypeRegisterMetadata(int32_t type_index, const TVMFFITypeMetadata* metadata) {
  constexpr std::string_view kName = "TVMFFITypeRegisterMetadata";
  if (metadata == nullptr) return raise_null(kName, "metadata");
  if (!is_text(metadata->doc)) return raise_null(kName, "the doc of metadata");
  Type* type = checked_type(type_index, kName);
  if (type == nullptr) return -1;
  if (type->metadata != nullptr)
    return raise("RuntimeError",
                 concat(kName, ": type ", text(type->type_key), " has metadata already"));
  type->own_metadata = *metadata;
  type->own_metadata.doc = keep(text(metadata->doc));
  type->metadata = &type->own_metadata;
  return 0;
}

int TVMFFITypeRegisterAttr(int32_t type_index, const TVMFFIByteArray* attr_name,
                           const TVMFFIAny* attr_value) {
  constexpr std::string_view kName = "TVMFFITypeRegisterAttr";
  if (attr_name == nullptr || attr_name->data == nullptr) return raise_null(kName, "attr_name");
  if (type_index != kTVMFFINone && attr_value == nullptr) return raise_null(kName, "attr_value");
  if (checked_type(type_index, kName) == nullptr) return -1;
  const std::string_view name = text(*attr_name);
  OrderedMap& columns = table().columns;
  const TVMFFIAny* found = columns.find(name);
  Column* column = nullptr;
  if (found != nullptr) {
    column = static_cast<Column*>(found->v_ptr);
  } else {
    column = new Column{};
    TVMFFIAny value{};
    value.type_index = kTVMFFIOpaquePtr;
    value.v_ptr = column;
    if (columns.set(name, Any::adopt(value)) != 0) return -1;
  }
  if (type_index == kTVMFFINone) return 0;
  const auto at = static_cast<size_t>(type_index);
  if (at < column->values.size() && column->values[at].type_index != kTVMFFINone)
    return raise("RuntimeError", concat(kName, ": type ", type_key(type_index),
                                        " has the attribute ", sluice::quote(name), " already"));
  TVMFFIAny value{};
  if (own(*attr_value, &value) != 0) return -1;
  if (at >= column->values.size()) column->values.resize(at + 1);
  column->values[at] = value;
  column->header = {column->values.data(), static_cast<int32_t>(column->values.size()), 0};
  return 0;
}

const TVMFFITypeAttrColumn* TVMFFIGetTypeAttrColumn(const TVMFFIByteArray* attr_name) {
  if (attr_name == nullptr || !is_text(*attr_name)) return nullptr;
  const TVMFFIAny* found = table().columns.find(text(*attr_name));
  return found == nullptr ? nullptr : &static_cast<Column*>(found->v_ptr)->header;
}

}  // extern "C"
