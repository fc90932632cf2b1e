#!/usr/bin/env python3
"""Writes the seed inputs of the parsers' fuzz targets to fuzz/corpus/.

Small files, valid and nearly valid, so that a fuzzer starts behind the first checks. Running it
again writes the same bytes.
"""
import json
import struct
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def safetensors(header, data=b"", padding=0):
    text = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    text += b" " * padding
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def text(value):
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, kind, payload):
    return text(key) + struct.pack("<I", kind) + payload


def array(kind, length, payload):
    return struct.pack("<IQ", kind, length) + payload


def tensor(name, dims, kind, offset):
    out = text(name) + struct.pack("<I", len(dims))
    return out + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset)


def gguf(pairs=(), tensors=(), data=0, version=3, alignment=32):
    out = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    out += b"".join(pairs) + b"".join(tensors)
    return out + bytes(-len(out) % alignment + data)


def record(name, shape, dtype, nbytes, offset, kind="f32-to-bf16"):
    return {"name": name, "shape": shape, "dtype": dtype, "format": kind, "nbytes": nbytes,
            "byteOffset": offset}


def cache(*shards):
    return json.dumps({"metadata": {"ParamSize": 2}, "records": shards}).encode()


def shard(path, nbytes, *records, **more):
    return {"dataPath": path, "format": "raw-shard", "nbytes": nbytes, "records": records, **more}


SAFETENSORS = {
    "empty": safetensors({}),
    "two": safetensors({"__metadata__": {"format": "pt"}, "a": entry("F32", [2, 3], 0, 24),
                        "b": entry("BF16", [2, 2], 24, 32)}, bytes(32), 3),
    "zero_size": safetensors({"a": entry("I64", [0, 4], 0, 0), "b": entry("U8", [], 0, 1)}, b"x"),
    "small_types": safetensors({"a": entry("F8_E4M3", [4], 0, 4), "b": entry("F4", [8], 4, 8)},
                               bytes(8)),
    "hole": safetensors({"a": entry("U8", [4], 4, 8)}, bytes(8)),
    "overlap": safetensors({"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, bytes(6)),
    "overflow": safetensors({"a": entry("U8", [2**32, 2**32], 0, 0)}),
    "duplicate": safetensors(b'{"a":{},"a":{}}'),
    "truncated": safetensors({"a": entry("U8", [4], 0, 4)}, bytes(3)),
    "long_length": struct.pack("<Q", 100_000_000) + b"{}",
}
INDEX = {
    "index": json.dumps({"metadata": {"total_size": 8}, "weight_map": {
        "a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode(),
    "index_outside": b'{"weight_map":{"a":"../x","b":"%2e%2e/y"}}',
}
NESTED = array(9, 2, array(2, 2, b"abcd") + array(8, 1, text("x")))
GGUF = {
    "empty": gguf(),
    "metadata": gguf([pair("general.architecture", 8, text("llama")), pair("u8", 0, b"\x01"),
                      pair("i8", 1, b"\xff"), pair("u16", 2, b"\x01\x00"),
                      pair("i16", 3, b"\xff\xff"), pair("u32", 4, b"\x01\x00\x00\x00"),
                      pair("i32", 5, b"\xff\xff\xff\xff"), pair("f32", 6, struct.pack("<f", 0.5)),
                      pair("flag", 7, b"\x01"), pair("u64", 10, struct.pack("<Q", 2**63)),
                      pair("i64", 11, struct.pack("<q", -1)),
                      pair("f64", 12, struct.pack("<d", float("inf"))),
                      pair("words", 9, array(8, 2, text("a") + text("bc"))),
                      pair("numbers", 9, array(5, 3, bytes(12))), pair("nested", 9, NESTED)]),
    "tensors": gguf(tensors=[tensor("a", [64, 3], 3, 0), tensor("b", [5], 0, 128)], data=148),
    "version2": gguf(tensors=[tensor("a", [256], 14, 0)], data=210, version=2),
    "alignment": gguf([pair("general.alignment", 4, struct.pack("<I", 64))],
                      [tensor("a", [4], 0, 0), tensor("b", [4], 1, 64)], 72, alignment=64),
    "removed_type": gguf(tensors=[tensor("a", [32], 4, 0)], data=32),
    "overlap": gguf(tensors=[tensor("a", [16], 0, 0), tensor("b", [16], 0, 32)], data=96),
    "overflow": gguf(tensors=[tensor("a", [2**40, 2**40], 0, 0)], data=32),
    "big_endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "many": b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60),
    "long_string": gguf([pair("k", 8, struct.pack("<Q", 2**63))]),
    "long_array": gguf([pair("k", 9, array(8, 2**40, b""))]),
}
CACHE = {
    "two_shards": cache(
        shard("s0.bin", 36, record("a", [2, 3], "float32", 12, 0),
              record("b", [6], "float32", 24, 12), md5sum="d41d8cd98f00b204e9800998ecf8427e"),
        shard("sub/s1.bin", 8, record("c", [2, 1], "uint32", 8, 0))),
    "large": cache(shard("s0.bin", 1174405120,
                         record("w", [262144, 1120], "uint32", 1174405120, 0, "raw"))),
    "types": cache(shard("s", 64, *(record(d, [8], d, n, 16 * i, "raw") for i, (d, n) in enumerate(
        [("bool", 8), ("uint4", 4), ("e4m3_float8", 8), ("bfloat16", 16)])))),
    "overlap": cache(shard("s", 8, record("a", [8], "uint8", 8, 0), record("b", [4], "uint8", 4, 4))),
    "outside": cache(shard("../s", 1)),
    "negative": cache(shard("s", 8, record("a", [-1], "uint8", -8, 0.5))),
    "empty": b'{"records":[]}',
}
JSON = {
    "values": b'{"a":[1,-3,1.5,1e300,18446744073709551615,18446744073709551616,true,null],"b":{}}',
    "text": '{"é\\u0000\\ud83d\\ude00":"\\"\\\\\\n\\u00ff"}'.encode(),
    "duplicate": b'{"a":1,"a":2}',
    "many_keys": json.dumps({f"k{i}": i for i in range(40)}).encode(),
    "deep": b"[" * 64 + b"]" * 64,
    "too_deep": b'{"a":' * 70,
    "overflow": b"[1e999]",
    "not_utf8": b'"\xff\xc0\xaf"',
    "trailing": b"{} {}",
}


def opened(name, behaviour, first, second=b""):
    """An input of open_fuzz: see the head of core/formats/open_fuzz.cc."""
    return struct.pack("<BBH", name, behaviour, len(first)) + first + second


TWO_FILES = b'{"weight_map":{"a":"1.safetensors"}}'
ONE_TENSOR = safetensors({"a": entry("U8", [4], 0, 4)}, bytes(4))


def part(no, count, tensors, *own):
    return gguf([pair("split.no", 2, struct.pack("<H", no)),
                 pair("split.count", 2, struct.pack("<H", count)),
                 pair("split.tensors.count", 5, struct.pack("<i", tensors))], own, 4 * len(own))


PARTS = [part(0, 2, 1), part(1, 2, 1, tensor("a", [4], 24, 0))]
OPEN = {
    "split": opened(6, 1, *PARTS),
    "split_from_second": opened(7, 2, *reversed(PARTS)),
    "split_part_missing": opened(6, 16, PARTS[0]),
    "split_part_twice": opened(6, 1, PARTS[0], PARTS[0]),
    "split_not_second": opened(6, 1, PARTS[0], GGUF["tensors"]),
    "split_count": opened(6, 1, part(0, 2, 9), PARTS[1]),
    "split_renamed": opened(1, 1, PARTS[1]),
    "folder_cache": opened(0, 1, CACHE["two_shards"]),
    "folder_index": opened(0, 1 | 32, TWO_FILES, ONE_TENSOR),
    "gguf": opened(1, 1, GGUF["tensors"]),
    "gguf_size_unknown": opened(1, 0, GGUF["metadata"]),
    "safetensors": opened(2, 0, SAFETENSORS["two"]),
    "index": opened(3, 1, TWO_FILES, ONE_TENSOR),
    "index_shard_missing": opened(3, 16, TWO_FILES),
    "cache": opened(5, 2, CACHE["types"]),
    "unknown_gguf": opened(4, 1, GGUF["alignment"]),
    "unknown_json": opened(4, 0, CACHE["large"]),
    "unknown_safetensors": opened(4, 2, SAFETENSORS["zero_size"]),
    "lies": opened(1, 4, GGUF["tensors"]),
    "half": opened(2, 8, SAFETENSORS["two"]),
    "long_header": opened(1, 1, gguf([pair("k", 8, text("x" * 3000))])),
}



def steps(*records):
    """A script of store_journal_fuzz (core/store/store_journal_fuzz.cc): kind, file, begin, length."""
    return b"\0" + b"".join(struct.pack("<BBHB", *record) for record in records)


# One record of each kind, as core/store wrote it: checksums are not made here
JOURNAL = bytes.fromhex(
    "534c554943454a011b000000b6f99751010e00000068747470733a2f2f686f73742f6de803000000000000240000001f"
    "3fe29b020000000005000000612e62696e640000000000000003000000226522030000004d6f6e1a000000ebdea5c302"
    "010000000100000062ffffffffffffffff00000000000000001d0000009cf7e31f030000000000000000000000003c00"
    "00000000000001000000000000001d0000000c6923aa03000000003c0000000000000064000000000000000200000000"
    "0000001d00000012e59abb03010000000500000000000000090000000000000003000000000000001500000001d0710c"
    "0401000000050000000000000006000000000000003000000090762fd90500000000030000006d643520000000303132"
    "333435363738396162636465663031323334353637383961626364656609000000b6b24c6e06d0070000000000000900"
    "0000a0442f3207b80b000000000000"
)
STORE_JOURNAL = {
    "journal": b"\1" + JOURNAL,
    "journal_cut": b"\1" + JOURNAL[:-5],
    "journal_damaged": b"\1" + JOURNAL[:150] + b"?" + JOURNAL[151:],
    "extents": steps((1, 0, 100, 0), (6, 0, 10, 20), (6, 0, 30, 10), (6, 0, 35, 10)),
    "drop": steps((2, 0, 0, 0), (6, 0, 10, 20), (6, 0, 40, 5), (3, 0, 25, 16), (6, 0, 10, 40)),
    "another_file": steps((2, 0, 0, 1), (6, 0, 0, 9), (5, 0, 7, 0), (2, 0, 0, 2), (6, 0, 0, 9)),
    "shrinks": steps((2, 0, 0, 1), (6, 0, 0, 90), (1, 0, 50, 0), (6, 0, 0, 50)),
    "checked": steps((1, 0, 90, 0), (6, 0, 0, 90), (4, 0, 0, 0), (5, 0, 9, 0), (3, 0, 0, 1)),
    "empty_file": steps((1, 0, 0, 0), (4, 0, 0, 0)),
    "two_blocks": steps((1 + 240, 0, 0, 0), (6 + 240, 0, 5, 9), (7 + 16, 0, 0, 255)),
    "unknown_file": steps((6, 3, 0, 1)),
    "second_model": steps((1, 0, 9, 0), (0, 0, 0, 0), (6, 0, 0, 9)),
    "index_left_out": steps((1, 1, 9, 0)),
    "magic": b"\1SLUICEJ\1",
    "version": b"\1SLUICEJ\2" + bytes(20),
    "wrong_magic": b"\1GGUF" + bytes(20),
    "long_record": b"\1SLUICEJ\1" + b"\xff" * 12,
}

for folder, files in {"json": JSON, "tensor_cache": CACHE, "safetensors": SAFETENSORS | INDEX,
                      "gguf": GGUF, "open": OPEN, "store_journal": STORE_JOURNAL}.items():
    (CORPUS / folder).mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (CORPUS / folder / name).write_bytes(content)
