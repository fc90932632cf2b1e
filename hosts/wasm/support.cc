// What libc++ expects of its platform, reduced to one thing: say why, and stop.
#include <cstdarg>
#include <cstdlib>
#include <new>

#include "hosts/wasm/panic.h"

namespace {

using sluice::wasm::panic;

void* allocate(size_t nbytes) {
  void* memory = std::malloc(nbytes == 0 ? 1 : nbytes);
  if (memory == nullptr) panic("the wasm memory is exhausted");
  return memory;
}

}  // namespace

void* operator new(size_t nbytes) { return allocate(nbytes); }
void* operator new[](size_t nbytes) { return allocate(nbytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, size_t) noexcept { std::free(memory); }

// libc++ would print to stderr, and bring half of stdio and four WASI imports with it
_LIBCPP_BEGIN_NAMESPACE_STD
[[noreturn]] void __libcpp_verbose_abort(char const* format, ...) { panic(format); }
_LIBCPP_END_NAMESPACE_STD

extern "C" void abort() { panic("abort() was called"); }
