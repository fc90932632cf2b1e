// Arrays, maps and shapes, and the builtins that make and read them.
#include "core/ffi/container.h"

#include <new>

#include "core/ffi/registry.h"

namespace sluice::ffi {
namespace {

void delete_array(void* self, int flags) {
  auto* array = static_cast<ArrayObject*>(self);
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskStrong) != 0) {
    for (int64_t i = 0; i < array->cell.size; ++i)
      if (is_object(array->items()[i].type_index)) release_nested(array->items()[i].v_obj);
    // Set where other code gave the elements a block of their own
    if (array->cell.data_deleter != nullptr) array->cell.data_deleter(array->cell.data);
  }
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) free_object(self);
}

void delete_shape(void* self, int flags) {
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) free_object(self);
}

void delete_map(void* self, int flags) {
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskStrong) != 0)
    static_cast<MapObject*>(self)->map.~OrderedMap();
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) free_object(self);
}

// The map of argument `i`, or null after raising an error
MapObject* map_argument(const Args& args, int32_t i) {
  auto* object = args.object<MapObject>(i, kTVMFFIMap);
  if (object != nullptr && !is_own_map(&object->header)) {
    raise_type(concat(args.name(), ": argument ", i,
                      " is a map of another library, made by tvm-ffi's C++ headers"));
    return nullptr;
  }
  return object;
}

int share(const TVMFFIAny& value, TVMFFIAny* result) {
  *result = Any::share(value).take();
  return 0;
}

// ---- Arrays ----

int array(void*, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  auto made = make_array(values, static_cast<size_t>(count));
  if (!made) return -1;
  *result = of_object(std::move(made));
  return 0;
}

int array_get_item(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(2)) return -1;
  const auto* items = args.object<ArrayObject>(0, kTVMFFIArray);
  size_t index = 0;
  if (items == nullptr || !args.index(1, static_cast<size_t>(items->cell.size), &index)) return -1;
  return share(items->items()[index], result);
}

int array_size(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1)) return -1;
  const auto* items = args.object<ArrayObject>(0, kTVMFFIArray);
  if (items == nullptr) return -1;
  *result = of_int(items->cell.size);
  return 0;
}

int array_contains(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(2)) return -1;
  const auto* items = args.object<ArrayObject>(0, kTVMFFIArray);
  Any wanted;
  if (items == nullptr || !args.owned(1, &wanted)) return -1;
  bool found = false;
  for (int64_t i = 0; i < items->cell.size && !found; ++i)
    found = same(items->items()[i], wanted.view());
  *result = of_bool(found);
  return 0;
}

// ---- Maps ----

int map(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (count % 2 != 0)
    return raise_type(
        concat(args.name(), " takes keys and values in turn, not ", count, " arguments"));
  auto made = make_map();
  if (!made) return -1;
  for (int32_t i = 0; i < count; i += 2) {
    Any key, value;
    if (!args.owned(i, &key) || !args.owned(i + 1, &value) ||
        made->map.set(std::move(key), std::move(value)) != 0)
      return -1;
  }
  *result = of_object(std::move(made));
  return 0;
}

int map_size(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1)) return -1;
  const MapObject* object = map_argument(args, 0);
  if (object == nullptr) return -1;
  *result = of_int(static_cast<int64_t>(object->map.size()));
  return 0;
}

// *value is null where the map has no such key
bool find_in_map(const Args& args, const TVMFFIAny** value) {
  if (!args.expect(2)) return false;
  const MapObject* object = map_argument(args, 0);
  Any key;
  if (object == nullptr || !args.owned(1, &key)) return false;
  *value = object->map.find(key.view());
  return true;
}

int map_get_item(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  const TVMFFIAny* value = nullptr;
  if (!find_in_map(args, &value)) return -1;
  if (value != nullptr) return share(*value, result);
  const std::string_view key = text(values[1]);
  return raise("KeyError", concat(args.name(), ": the map has no key ",
                                  key.data() == nullptr
                                      ? concat("of this value and type ", type_key_of(args.at(1)))
                                      : quote(key)));
}

int map_count(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const TVMFFIAny* value = nullptr;
  if (!find_in_map(Args(handle, values, count), &value)) return -1;
  *result = of_int(value == nullptr ? 0 : 1);
  return 0;
}

void delete_header(void* self, int flags) {
  if ((flags & kTVMFFIObjectDeleterFlagBitMaskWeak) != 0) free_object(self);
}

// An object that stands for "no such item" and "keywords follow"; the program keeps a reference
int singleton(TVMFFIObject** object, TVMFFIAny* result) {
  if (*object == nullptr)
    *object = allocate_object(sizeof(TVMFFIObject), kTVMFFIObject, delete_header);
  if (*object == nullptr) return -1;
  retain(*object);
  *result = of_object(*object);
  return 0;
}

constinit TVMFFIObject* missing_object = nullptr;
constinit TVMFFIObject* keywords_object = nullptr;

int map_get_item_or_missing(void* handle, const TVMFFIAny* values, int32_t count,
                            TVMFFIAny* result) {
  const TVMFFIAny* value = nullptr;
  if (!find_in_map(Args(handle, values, count), &value)) return -1;
  return value == nullptr ? singleton(&missing_object, result) : share(*value, result);
}

int get_missing(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  if (!Args(handle, values, count).expect(0)) return -1;
  return singleton(&missing_object, result);
}

int get_keywords(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  if (!Args(handle, values, count).expect(0)) return -1;
  return singleton(&keywords_object, result);
}

struct MapWalk {
  Ref<MapObject> object;
  size_t at;
};

// f(0) is the key, f(1) the value, f(2) goes on and is false at the end
int walk_map(void* self, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  static constexpr Builtin kBuiltin = {"ffi.MapForwardIterFunctor()", nullptr};
  const Args args(&kBuiltin, values, count);
  auto* walk = static_cast<MapWalk*>(self);
  const OrderedMap& entries = walk->object->map;
  int64_t command = 0;
  if (!args.expect(1) || !args.integer(0, &command)) return -1;
  if (command == 0 || command == 1) {
    if (walk->at == entries.end())
      return raise("IndexError",
                   concat(args.name(), ": behind the last of ", entries.size(), " entries"));
    return share(command == 0 ? entries.key(walk->at) : entries.value(walk->at), result);
  }
  if (command != 2)
    return raise_value(concat(args.name(), ": the command is ", command, ", not 0, 1 or 2"));
  if (walk->at != entries.end()) walk->at = entries.next(walk->at + 1);
  *result = of_bool(walk->at != entries.end());
  return 0;
}

int map_walk(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  if (!args.expect(1)) return -1;
  MapObject* object = map_argument(args, 0);
  if (object == nullptr) return -1;
  auto* walk = new (std::nothrow) MapWalk{Ref<MapObject>::share(object), object->map.next(0)};
  if (walk == nullptr) return raise_no_memory();
  auto function =
      make_function(walk, walk_map, [](void* self) { delete static_cast<MapWalk*>(self); });
  if (!function) return -1;
  *result = of_object(std::move(function));
  return 0;
}

// ---- Shapes ----

int shape(void* handle, const TVMFFIAny* values, int32_t count, TVMFFIAny* result) {
  const Args args(handle, values, count);
  int64_t* extents = nullptr;
  auto made = make_shape(static_cast<size_t>(count), &extents);
  if (!made) return -1;
  for (int32_t i = 0; i < count; ++i)
    if (!args.integer(i, &extents[i])) return -1;
  *result = of_object(std::move(made));
  return 0;
}

constexpr Builtin kBuiltins[] = {
    {"ffi.Array", array},
    {"ffi.ArrayGetItem", array_get_item},
    {"ffi.ArraySize", array_size},
    {"ffi.ArrayContains", array_contains},
    {"ffi.Map", map},
    {"ffi.MapSize", map_size},
    {"ffi.MapGetItem", map_get_item},
    {"ffi.MapCount", map_count},
    {"ffi.MapForwardIterFunctor", map_walk},
    {"ffi.MapGetItemOrMissing", map_get_item_or_missing},
    {"ffi.GetInvalidObject", get_missing},
    {"ffi.GetKwargsObject", get_keywords},
    {"ffi.Shape", shape},
};

}  // namespace

std::span<const Builtin> container_builtins() { return kBuiltins; }

Ref<ArrayObject> make_array(const TVMFFIAny* views, size_t size) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(size, sizeof(TVMFFIAny), &bytes) ||
      __builtin_add_overflow(bytes, sizeof(ArrayObject), &bytes)) {
    raise_no_memory();
    return {};
  }
  auto* object = reinterpret_cast<ArrayObject*>(allocate_object(bytes, kTVMFFIArray, delete_array));
  if (object == nullptr) return {};
  auto made = Ref<ArrayObject>::adopt(object);
  auto* items = reinterpret_cast<TVMFFIAny*>(object + 1);
  object->cell.data = items;
  object->cell.capacity = static_cast<int64_t>(size);
  for (size_t i = 0; i < size; ++i) {
    if (own(views[i], &items[i]) != 0) return {};
    ++object->cell.size;
  }
  return made;
}

Ref<ShapeObject> make_shape(size_t size, int64_t** elements) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(size, sizeof(int64_t), &bytes) ||
      __builtin_add_overflow(bytes, sizeof(ShapeObject), &bytes)) {
    raise_no_memory();
    return {};
  }
  auto* object = reinterpret_cast<ShapeObject*>(allocate_object(bytes, kTVMFFIShape, delete_shape));
  if (object == nullptr) return {};
  *elements = reinterpret_cast<int64_t*>(object + 1);
  object->cell = {*elements, size};
  return Ref<ShapeObject>::adopt(object);
}

Ref<MapObject> make_map() {
  auto* object =
      reinterpret_cast<MapObject*>(allocate_object(sizeof(MapObject), kTVMFFIMap, delete_map));
  if (object == nullptr) return {};
  new (&object->map) OrderedMap;
  return Ref<MapObject>::adopt(object);
}

bool is_own_map(const TVMFFIObject* object) { return object->deleter == delete_map; }

}  // namespace sluice::ffi
