#!/usr/bin/env python3
"""Holds the model that compile.py made for this machine's CPU, run by TVM's own runtime, to the reference's tokens.

models/smollm2/check_tvm.py MODEL.gguf build/smollm2/llvm/model.so models/smollm2/expected.json [--prompts 3]
"""

import argparse
import json
import pathlib
import sys
import time

import gguf_model
import numpy as np
import tvm
from model import PAGE_SIZE
from tvm import relax


class Sequence:
    """A compiled model and one sequence in its KV cache."""

    def __init__(
        self, library: pathlib.Path, weights: dict[str, np.ndarray], dtype: str, positions: int
    ):
        self.vm = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
        self.metadata = json.loads(self.vm["_metadata"]())
        self.chunk = self.metadata["prefill_chunk_size"]
        self.weights = []
        for each in self.metadata["params"]:
            weight = weights[each["name"]]
            if list(weight.shape) != each["shape"]:
                raise ValueError(
                    f"{each['name']} is {weight.shape}, and the model takes {each['shape']}"
                )
            self.weights.append(tvm.runtime.tensor(weight.astype(each["dtype"])))
        sizes = (1, positions, self.chunk, PAGE_SIZE, 0)
        self.cache = self.vm["create_tir_paged_kv_cache"](
            *(tvm.runtime.ShapeTuple([n]) for n in sizes)
        )
        function = tvm.get_global_func
        self.clear = function("vm.builtin.kv_state_clear")
        self.add = function("vm.builtin.kv_state_add_sequence")
        self.begin = function("vm.builtin.kv_state_begin_forward")
        self.end = function("vm.builtin.kv_state_end_forward")

    def append(self, tokens: list[int]) -> np.ndarray:
        """The logits after the last of `tokens`."""
        shape = tvm.runtime.ShapeTuple
        for at in range(0, len(tokens), self.chunk):
            piece = tokens[at : at + self.chunk]
            ids = tvm.runtime.tensor(np.array(piece, np.int32))
            embedded = self.vm["embed"](ids, self.weights)
            embedded = tvm.runtime.tensor(embedded.numpy()[None])
            self.begin(self.cache, shape([0]), shape([len(piece)]))
            step = self.vm["prefill" if len(piece) > 1 else "decode"]
            logits = step(embedded, self.cache, self.weights)[0]
            self.end(self.cache)
        return logits.numpy()[0, 0]

    def greedy(self, tokens: list[int], count: int) -> list[int]:
        self.clear(self.cache)
        self.add(self.cache, 0)
        answer = []
        logits = self.append(tokens)
        while True:
            answer.append(int(np.argmax(logits)))
            if len(answer) == count:
                return answer
            logits = self.append(answer[-1:])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("library", type=pathlib.Path)
    parser.add_argument("expected", type=pathlib.Path)
    parser.add_argument("--prompts", type=int, help="only so many of them")
    arguments = parser.parse_args()
    weights = gguf_model.weights(gguf_model.read(arguments.model))
    sequence = Sequence(arguments.library, weights, "float32", 1024)
    answers = json.loads(arguments.expected.read_text(encoding="utf-8"))["answers"]
    failed = 0
    for each in answers[: arguments.prompts]:
        start = time.monotonic()
        expected = each["answer"]
        answer = sequence.greedy(each["tokens"], len(expected))
        same = next(
            (i for i, (a, b) in enumerate(zip(answer, expected, strict=True)) if a != b),
            len(expected),
        )
        failed += same < len(expected)
        print(
            f"{each['prompt']}: {same} of {len(expected)} tokens are equal, {time.monotonic() - start:.1f} s",
            flush=True,
        )
    return min(failed, 1)


if __name__ == "__main__":
    sys.exit(main())
