#include "core/ffi/ordered_map.h"

#include <algorithm>
#include <cstdlib>

namespace sluice::ffi {
namespace {

// The string is compared as the owned string that set() made of it
struct StringKey {
  explicit StringKey(std::string_view key)
      : object{.header = {.type_index = kTVMFFIStr}, .bytes = {key.data(), key.size()}} {
    if (key.data() == nullptr) object.bytes.data = "";
    value.type_index = kTVMFFIStr;
    value.v_obj = &object.header;
  }
  StringObject object;
  TVMFFIAny value{};
};

}  // namespace

OrderedMap::Entry* OrderedMap::lookup(const TVMFFIAny& key, uint64_t hash) const {
  if (capacity_ == 0) return nullptr;
  const size_t mask = size_t{capacity_} * 2 - 1;
  for (size_t slot = static_cast<size_t>(hash) & mask; slots_[slot] != 0;
       slot = (slot + 1) & mask) {
    Entry& entry = entries_[slots_[slot] - 1];
    if (entry.hash == hash && same(entry.key, key)) return &entry;
  }
  return nullptr;
}

const TVMFFIAny* OrderedMap::find(const TVMFFIAny& key) const {
  const Entry* entry = lookup(key, ffi::hash(key));
  return entry == nullptr ? nullptr : &entry->value;
}

const TVMFFIAny* OrderedMap::find(std::string_view key) const { return find(StringKey(key).value); }

int OrderedMap::set(Any key, Any value) {
  const uint64_t hash = ffi::hash(key.view());
  if (Entry* entry = lookup(key.view(), hash)) {
    // The old value is released last: its deleter may come back to this map
    Any before = Any::adopt(std::exchange(entry->value, value.take()));
    return 0;
  }
  if (used_ == capacity_ && !grow()) return raise_no_memory();
  const size_t mask = size_t{capacity_} * 2 - 1;
  size_t slot = static_cast<size_t>(hash) & mask;
  while (slots_[slot] != 0) slot = (slot + 1) & mask;
  entries_[used_] = {key.take(), value.take(), hash};
  slots_[slot] = ++used_;
  ++live_;
  return 0;
}

int OrderedMap::set(std::string_view key, Any value) {
  Any name;
  if (make_string(key, name.receive()) != 0) return -1;
  return set(std::move(name), std::move(value));
}

bool OrderedMap::erase(std::string_view key) { return erase(StringKey(key).value); }

bool OrderedMap::erase(const TVMFFIAny& key) {
  Entry* entry = lookup(key, ffi::hash(key));
  if (entry == nullptr) return false;
  // Its slot goes on pointing here, so that what was stored behind it is still found
  Any old_key = Any::adopt(std::exchange(entry->key, TVMFFIAny{.type_index = kTVMFFIAny}));
  Any old_value = Any::adopt(std::exchange(entry->value, none()));
  --live_;
  return true;
}

bool OrderedMap::grow() {
  // Twice the room, unless half of what is used was erased
  if (capacity_ >= (1u << 30)) return false;
  const uint32_t capacity = std::max<uint32_t>(4, live_ > used_ / 2 ? capacity_ * 2 : capacity_);
  size_t bytes = 0;
  if (__builtin_mul_overflow(size_t{capacity}, sizeof(Entry), &bytes)) return false;
  auto* entries = static_cast<Entry*>(std::malloc(bytes));
  auto* slots = static_cast<uint32_t*>(std::calloc(size_t{capacity} * 2, sizeof(uint32_t)));
  if (entries == nullptr || slots == nullptr) {
    std::free(entries);
    std::free(slots);
    return false;
  }
  const size_t mask = size_t{capacity} * 2 - 1;
  uint32_t used = 0;
  for (size_t i = next(0); i != end(); i = next(i + 1)) {
    size_t slot = static_cast<size_t>(entries_[i].hash) & mask;
    while (slots[slot] != 0) slot = (slot + 1) & mask;
    entries[used] = entries_[i];
    slots[slot] = ++used;
  }
  std::free(entries_);
  std::free(slots_);
  entries_ = entries;
  slots_ = slots;
  used_ = used;
  capacity_ = capacity;
  return true;
}

void OrderedMap::clear() {
  Entry* entries = std::exchange(entries_, nullptr);
  std::free(std::exchange(slots_, nullptr));
  const uint32_t used = std::exchange(used_, 0);
  live_ = capacity_ = 0;
  for (uint32_t i = 0; i < used; ++i) {
    if (is_object(entries[i].key.type_index)) release_nested(entries[i].key.v_obj);
    if (is_object(entries[i].value.type_index)) release_nested(entries[i].value.v_obj);
  }
  std::free(entries);
}

size_t OrderedMap::next(size_t from) const {
  while (from < used_ && entries_[from].key.type_index == kTVMFFIAny) ++from;
  return from;
}

}  // namespace sluice::ffi
