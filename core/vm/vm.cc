#include "core/vm/vm.h"

#include "core/runtime/runtime.h"
#include "core/vm/kv/kv.h"

namespace sluice::vm {

void initialize() {
  runtime::initialize();
  for (const auto builtins :
       {module_builtins(), webgpu_module_builtins(), shape_builtins(), tensor_builtins(),
        call_builtins(), kv_state_builtins(), kv_cache_builtins(), rnn_state_builtins()})
    runtime::register_missing(builtins);
}

}  // namespace sluice::vm
