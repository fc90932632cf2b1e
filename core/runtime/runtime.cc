#include "core/runtime/runtime.h"

namespace sluice::runtime {

void register_missing(std::span<const ffi::Builtin> builtins) {
  // Registering fails only where memory ends
  for (const ffi::Builtin& builtin : builtins)
    if (!ffi::find_function(builtin.name)) (void)ffi::register_functions({&builtin, 1});
}

void initialize() {
  ffi::initialize();
  for (const auto builtins : {device_builtins(), tensor_builtins(), tensor_cache_builtins(),
                              sampling_builtins(), testing_builtins()})
    register_missing(builtins);
}

}  // namespace sluice::runtime
