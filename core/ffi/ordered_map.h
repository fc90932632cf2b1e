// A hash map of values that keeps the order in which its keys came: what map objects hold, and what
// the registries of this folder are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/ffi/object.h"

namespace sluice::ffi {

// Owns its keys and values. Keys are compared by same(). All zero is an empty map, so that one may
// stand in memory from allocate_object().
class OrderedMap {
 public:
  OrderedMap() = default;
  OrderedMap(const OrderedMap&) = delete;
  OrderedMap& operator=(const OrderedMap&) = delete;
  ~OrderedMap() { clear(); }

  size_t size() const { return live_; }

  // The value of a key, or null. Valid until the map changes.
  const TVMFFIAny* find(const TVMFFIAny& key) const;
  const TVMFFIAny* find(std::string_view key) const;

  // Sets a key's value; a key that is there keeps its place. Raises and returns -1 where there is
  // no memory.
  [[nodiscard]] int set(Any key, Any value);
  [[nodiscard]] int set(std::string_view key, Any value);

  // Whether the key was there.
  bool erase(const TVMFFIAny& key);
  bool erase(std::string_view key);

  void clear();

  // Walks the entries in order: `for (size_t i = map.next(0); i != map.end(); i = map.next(i +
  // 1))`.
  size_t next(size_t from) const;
  size_t end() const { return used_; }
  const TVMFFIAny& key(size_t at) const { return entries_[at].key; }
  const TVMFFIAny& value(size_t at) const { return entries_[at].value; }

 private:
  struct Entry {
    TVMFFIAny key;  // of type kTVMFFIAny where the entry was erased
    TVMFFIAny value;
    uint64_t hash;
  };

  Entry* lookup(const TVMFFIAny& key, uint64_t hash) const;
  // Room for one more entry.
  bool grow();

  Entry* entries_ = nullptr;   // used_ of capacity_
  uint32_t* slots_ = nullptr;  // 2 * capacity_, a power of 2; index of an entry + 1, or 0
  uint32_t used_ = 0;
  uint32_t live_ = 0;
  uint32_t capacity_ = 0;
};

}  // namespace sluice::ffi
