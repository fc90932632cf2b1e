"""What the scripts here take from a GGUF file, through the format's own library."""

import pathlib

import gguf
import numpy as np


def read(path: pathlib.Path) -> gguf.GGUFReader:
    return gguf.GGUFReader(path)


def metadata(reader: gguf.GGUFReader) -> dict:
    """All keys with their values: numbers, strings, lists of such."""
    return {key: field.contents() for key, field in reader.fields.items()}


def weights(reader: gguf.GGUFReader) -> dict[str, np.ndarray]:
    """All tensors, dequantised to float32, as row-major arrays."""
    return {
        tensor.name: np.ascontiguousarray(
            gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32
        ).reshape(tensor.shape[::-1])
        for tensor in reader.tensors
    }
