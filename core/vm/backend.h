// The C functions beside tvm-ffi's that code compiled by TVM calls. Names and arguments are those
// of tvm/runtime/c_backend_api.h and src/runtime/vm/builtin.cc in apache-tvm 0.27. Those that
// return int give 0, or -1 after raising an error.
#pragma once

#include <stdint.h>

#include "core/ffi/c_api.h"

extern "C" {

// What a task of a parallel loop gets.
struct TVMParallelGroupEnv {
  void* sync_handle;
  int32_t num_task;
};

using FTVMParallelLambda = int (*)(int task_id, TVMParallelGroupEnv* env, void* cdata);

// Memory for the length of one function; null after raising an error. The hints are not needed.
TVM_FFI_DLL void* TVMBackendAllocWorkspace(int device_type, int device_id, uint64_t nbytes,
                                           int dtype_code_hint, int dtype_bits_hint);
TVM_FFI_DLL int TVMBackendFreeWorkspace(int device_type, int device_id, void* ptr);

// There are no threads: one task does all, whatever number is asked for.
TVM_FFI_DLL int TVMBackendParallelLaunch(FTVMParallelLambda lambda, void* cdata, int num_task);
TVM_FFI_DLL int TVMBackendParallelBarrier(int task_id, TVMParallelGroupEnv* env);

// Of compiled VM functions: `anylist` is a sluice::vm::AnyList.
// args[arg_offset] becomes a view of the element.
TVM_FFI_DLL int TVMBackendAnyListSetPackedArg(void* anylist, int index, TVMFFIAny* args,
                                              int arg_offset);
// The element becomes none.
TVM_FFI_DLL int TVMBackendAnyListResetItem(void* anylist, int index);
// The element takes args[ret_offset] over.
TVM_FFI_DLL int TVMBackendAnyListMoveFromPackedReturn(void* anylist, int index, TVMFFIAny* args,
                                                      int ret_offset);

}  // extern "C"
