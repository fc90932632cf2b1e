/** What core/ffi/c_api.h lays down, as wasm32 lays it out: numbers of types, sizes and offsets in bytes, functions. */

/** TVMFFITypeIndex. */
export const TypeIndex = {
  NONE: 0,
  INT: 1,
  BOOL: 2,
  FLOAT: 3,
  OPAQUE_POINTER: 4,
  DATA_TYPE: 5,
  DEVICE: 6,
  DL_TENSOR: 7,
  RAW_STRING: 8,
  BYTE_ARRAY: 9,
  RVALUE_REF: 10,
  SMALL_STRING: 11,
  SMALL_BYTES: 12,
  OBJECT: 64,
  STRING: 65,
  BYTES: 66,
  ERROR: 67,
  FUNCTION: 68,
  SHAPE: 69,
  TENSOR: 70,
  ARRAY: 71,
  MAP: 72,
  MODULE: 73,
} as const;

/** TVMFFIAny: type index, length of a small string, eight bytes of value. */
export const ANY_BYTES = 16;
export const ANY_LENGTH = 4;
export const ANY_VALUE = 8;

/** TVMFFIObject, which stands before what an object holds. */
export const OBJECT_TYPE = 8;
export const OBJECT_BYTES = 24;

/** TVMFFIByteArray and TVMFFIShapeCell: address, then how many. */
export const SPAN_SIZE = 4;

/** TVMFFISeqCell, behind the header. */
export const ARRAY_SIZE = 8;

/** TVMFFIErrorCell, behind the header. */
export const ERROR_CELL = { kind: 0, message: 8, backtrace: 16, cause: 28, context: 32 } as const;

/** DLTensor, in a tensor behind the header. */
export const DL_TENSOR = {
  data: 0,
  deviceType: 4,
  deviceId: 8,
  ndim: 12,
  dtype: 16,
  shape: 20,
  strides: 24,
  byteOffset: 32,
} as const;

export const DEVICE_CPU = 1;
export const DEVICE_WEBGPU = 15;

/** Functions of hosts/wasm/runtime_exports.txt. Addresses and handles are unsigned 32-bit numbers; see there. */
export interface RuntimeExports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  TVMWasmAllocSpace(nbytes: number): number;
  TVMWasmFreeSpace(address: number): void;
  TVMFFIWasmFunctionCreate(self: number, out: number): number;
  TVMFFIAnyViewToOwnedAny(view: number, out: number): number;
  TVMFFIBytesFromByteArray(input: number, out: number): number;
  TVMFFIStringFromByteArray(input: number, out: number): number;
  TVMFFIDataTypeFromString(text: number, out: number): number;
  TVMFFIDataTypeToString(dtype: number, out: number): number;
  TVMFFIErrorCreateWithCauseAndExtraContext(
    kind: number,
    message: number,
    backtrace: number,
    cause: number,
    context: number,
    out: number,
  ): number;
  TVMFFIErrorMoveFromRaised(out: number): void;
  TVMFFIErrorSetRaised(error: number): void;
  TVMFFIFunctionCall(func: number, args: number, count: number, result: number): number;
  TVMFFIFunctionGetGlobal(name: number, out: number): number;
  TVMFFIFunctionSetGlobal(name: number, func: number, override: number): number;
  TVMFFIGetTypeInfo(typeIndex: number): number;
  TVMFFIObjectDecRef(object: number): number;
  TVMFFIObjectIncRef(object: number): number;
  /** Not in a module that was linked with another runtime. */
  sluice_panic_message?(): number;
}

/** What the module imports, all of it. */
export interface RuntimeImports {
  TVMFFIWasmSafeCall(self: number, args: number, count: number, result: number): number;
  TVMFFIWasmFunctionDeleter(self: number): void;
}
