#!/usr/bin/env python3
"""Model files as the reference libraries `safetensors` and `gguf` read and write them.

  reference.py write FOLDER    writes types.safetensors, types.gguf and blocks.gguf: each element type
                               that the libraries have, with bytes that a seed determines
  reference.py read FILE...    prints {FILE: {stored: TENSORS, float32: TENSORS}} as JSON, where TENSORS
                               is {name: {dtype, shape, nbytes, sha256}}, outermost dimension first

`float32` is what a conversion to f32 must give: dequantised by the library; integers, and floats that
are not converted (those of 64 and of at most 8 bits), are as stored. It is null where the library or
Sluice cannot decode one of the types.
"""

import hashlib
import json
import pathlib
import sys

import gguf
import numpy as np
import safetensors

GGML = gguf.GGMLQuantizationType
# As ggml names its types, and as Sluice names them where that differs
GGML_PLAIN = {
    GGML.F32: "float32", GGML.F16: "float16", GGML.BF16: "bfloat16", GGML.F64: "float64",
    GGML.I8: "int8", GGML.I16: "int16", GGML.I32: "int32", GGML.I64: "int64",
}  # fmt: skip
GGML_DECODED = (
    GGML.Q4_0, GGML.Q4_1, GGML.Q5_0, GGML.Q5_1, GGML.Q8_0, GGML.Q4_K, GGML.Q5_K, GGML.Q6_K,
)  # fmt: skip
# 36 bytes a block in ggml itself (ggml-common.h, block_q8_1), 40 in this library; no file has it: it
# is ggml's own, for activations on their way
GGML_UNSURE = (GGML.Q8_1,)
# Where the factors of a block stand: an f16 each, which must be finite
GGML_FACTORS = {GGML.Q4_K: (0, 2), GGML.Q5_K: (0, 2), GGML.Q6_K: (208,)}
SAFETENSORS = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32",
    "I32": "int32", "U64": "uint64", "I64": "int64", "F16": "float16", "BF16": "bfloat16",
    "F32": "float32", "F64": "float64", "C64": "complex64", "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2": "float8_e5m2", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu", "F4": "float4_e2m1fn",
}  # fmt: skip


def floats(random: np.random.Generator, *shape: int) -> np.ndarray:
    """Weights as models have them, with zeros of both signs, and some that f16 holds as subnormals."""
    out = random.normal(0, 0.05, shape).astype(np.float32)
    flat = out.reshape(-1)
    flat[::97] *= np.float32(1e-5)
    flat[::101] = 0.0
    flat[::103] = -0.0
    return out


def write_safetensors(path: pathlib.Path, random: np.random.Generator) -> None:
    tensors, kept = {}, []  # the library takes addresses; `kept` keeps what is there
    for code, dtype in SAFETENSORS.items():
        for number, shape in enumerate([(7, 130), (2,), (0, 4), (), (3, 5, 2, 2)]):
            values = floats(random, *shape)
            if code == "BF16":
                data = (values.view(np.uint32) >> 16).astype(np.uint16)
            elif code in ("F16", "F32", "F64"):
                data = values.astype(dtype)
            elif code == "BOOL":
                data = random.integers(0, 2, shape, np.uint8)
            elif code == "F4":
                # Two to a byte, and the library is told the shape in bytes
                if values.size % 2:
                    continue
                shape = (*shape[:-1], shape[-1] // 2)
                data = random.integers(0, 256, shape, np.uint8)
                dtype = "float4_e2m1fn_x2"
            else:
                size = 1 if code.startswith("F8") else int(code[1:]) // 8
                data = random.integers(0, 256, (values.size, size), np.uint8)
            kept.append(np.ascontiguousarray(data))
            tensors[f"{code}.{number}"] = safetensors.TensorSpec(
                dtype=dtype, shape=shape, data_ptr=kept[-1].ctypes.data, data_len=kept[-1].nbytes
            )
    metadata = {"format": "np", "note": 'a "quoted" \u00fc'}
    safetensors.serialize_file(tensors, str(path), metadata)


def write_gguf(path: pathlib.Path, random: np.random.Generator, kinds: list[GGML]) -> None:
    writer = gguf.GGUFWriter(path, "test")
    writer.add_block_count(3)
    writer.add_array("test.words", ["a", "\u00fc", ""])
    for kind in kinds:
        for number, (rows, columns) in enumerate([(1, 256), (5, 1024), (67, 512)]):
            name = f"{kind.name}.{number}"
            block, nbytes = gguf.GGML_QUANT_SIZES[kind]
            if kind in GGML_PLAIN:
                if kind in (GGML.F32, GGML.F16, GGML.F64):
                    values = floats(random, rows, columns).astype(GGML_PLAIN[kind])
                elif kind == GGML.BF16:
                    values = gguf.quantize(floats(random, rows, columns), kind)
                else:
                    values = np.frombuffer(random.bytes(rows * columns * nbytes), GGML_PLAIN[kind])
                    values = values.reshape(rows, columns)
            elif kind in GGML_DECODED and kind not in GGML_FACTORS:
                values = gguf.quantize(floats(random, rows, columns), kind)
            else:
                values = np.frombuffer(random.bytes(rows * columns // block * nbytes), np.uint8).copy()
                blocks = values.reshape(-1, nbytes)
                for at in GGML_FACTORS.get(kind, ()):
                    factors = floats(random, len(blocks), 1).astype(np.float16)
                    blocks[:, at : at + 2] = factors.view(np.uint8)
                values = values.reshape(rows, -1)
            writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def tensor(dtype: str, shape: list[int], data: bytes) -> dict:
    digest = hashlib.sha256(data).hexdigest()
    return {"dtype": dtype, "shape": shape, "nbytes": len(data), "sha256": digest}


def read_safetensors(path: str) -> dict:
    stored, converted = {}, {}
    for name, view in safetensors.deserialize(pathlib.Path(path).read_bytes()):
        data, shape = bytes(view["data"]), list(view["shape"])
        dtype = SAFETENSORS[view["dtype"]]
        stored[name] = converted[name] = tensor(dtype, shape, data)
        if dtype == "float16":
            wide = np.frombuffer(data, np.float16).astype(np.float32)
        elif dtype == "bfloat16":
            wide = np.frombuffer(data, np.uint16).astype(np.uint32) << 16
        else:
            continue
        converted[name] = tensor("float32", shape, wide.tobytes())
    return {"stored": stored, "float32": converted}


def read_gguf(path: str) -> dict:
    stored, converted = {}, {}
    for view in gguf.GGUFReader(path).tensors:
        kind, shape = view.tensor_type, [int(extent) for extent in reversed(view.shape)]
        dtype = GGML_PLAIN.get(kind) or kind.name.lower()
        stored[view.name] = tensor(dtype, shape, view.data.tobytes())
        if kind in GGML_DECODED or kind in (GGML.F16, GGML.BF16):
            wide = gguf.dequantize(view.data, kind)
            assert wide.dtype == np.float32 and list(wide.shape) == shape
            converted[view.name] = tensor("float32", shape, wide.tobytes())
        elif kind in GGML_PLAIN:
            converted[view.name] = stored[view.name]
    return {"stored": stored, "float32": converted if len(converted) == len(stored) else None}


def main() -> int:
    command, *paths = sys.argv[1:]
    if command == "write":
        folder = pathlib.Path(paths[0])
        write_safetensors(folder / "types.safetensors", np.random.default_rng(1))
        known = [*GGML_PLAIN, *GGML_DECODED]
        write_gguf(folder / "types.gguf", np.random.default_rng(2), known)
        others = [k for k in gguf.GGML_QUANT_SIZES if k not in (*known, *GGML_UNSURE)]
        write_gguf(folder / "blocks.gguf", np.random.default_rng(3), others)
    else:
        read = {".safetensors": read_safetensors, ".gguf": read_gguf}
        json.dump({path: read[pathlib.Path(path).suffix](path) for path in paths}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
