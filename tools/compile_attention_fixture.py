#!/usr/bin/env python3
"""Compiles tests/vm/fixtures/attention_{cpu,webgpu} with TVM: two layers of attention over the paged KV cache.

Needs the Python packages apache-tvm, apache-tvm-ffi and numpy. The files are those of tools/compile_fixtures.py;
attention.json has the weights and, for a cache without and one with sliding windows, steps: a builtin of the cache with
its arguments, or a forward pass with its input and what TVM's own runtime gives on this machine's CPU, and at the end
how many pages are free there. The model for the CPU has RoPE, that for WebGPU none.
"""

import json

import numpy as np
import tvm
from compile_fixtures import FIXTURES, WASM, compile_fixture
from tvm import relax
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op, spec
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode, TIRPagedKVCache

LAYERS, HEADS, KV_HEADS, HEAD_DIM, HIDDEN = 2, 4, 2, 16, 16
# Sequences, tokens in all, tokens of a pass, tokens of a page
CAPACITY = [4, 400, 64, 16]


class Layer(nn.Module):
    """Attention and its projections, beside the input."""

    def __init__(self, index: int):
        self.index = index
        self.qkv = nn.Linear(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_DIM, bias=False)
        self.out = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)

    def forward(self, x: nn.Tensor, cache: PagedKVCache) -> nn.Tensor:
        batch, length, _ = x.shape
        qkv = op.reshape(self.qkv(x), (batch, length, HEADS + 2 * KV_HEADS, HEAD_DIM))
        o = cache.attention_with_fused_qkv(self.index, qkv, HEADS, HEAD_DIM**-0.5)
        return x + self.out(op.reshape(o, (batch, length, HEADS * HEAD_DIM)))


class Attention(nn.Module):
    """The model; `prefill` takes the tokens of a pass in a row, `decode` one token of each sequence."""

    def __init__(self, target: tvm.target.Target, rope: RopeMode):
        self.layers = nn.ModuleList([Layer(index) for index in range(LAYERS)])
        self.target = target
        self.rope = rope

    def prefill(self, x: nn.Tensor, cache: PagedKVCache):
        for layer in self.layers:
            x = layer(x, cache)
        return x, cache

    def decode(self, x: nn.Tensor, cache: PagedKVCache):
        return self.prefill(x, cache)

    def create_kv_cache(self, batch, tokens, chunk, page_size, sliding):
        return TIRPagedKVCache(
            attn_kind="mha",
            max_batch_size=batch,
            max_total_seq_len=tokens,
            prefill_chunk_size=chunk,
            page_size=page_size,
            support_sliding_window=sliding,
            layer_partition=relax.ShapeExpr([0, LAYERS]),
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS,
            qk_head_dim=HEAD_DIM,
            v_head_dim=HEAD_DIM,
            mla_original_qk_head_dim=0,
            mla_original_v_head_dim=0,
            rope_mode=self.rope,
            rope_scale=1,
            rope_theta=10000,
            rope_scaling={},
            rope_ext_factors=relax.prim_value(0),
            rotary_dim=HEAD_DIM,
            enable_disaggregation=False,
            dtype="float32",
            target=self.target,
        )


def export(target: tvm.target.Target, rope: RopeMode):
    """The model's module, and the names and shapes of its weights."""
    forward = {
        "cache": spec.Object(object_type=PagedKVCache),
        "$": {"param_mode": "packed", "effect_mode": "none"},
    }
    sizes = dict.fromkeys(["batch", "tokens", "chunk", "page_size", "sliding"], int)
    module, weights = Attention(target, rope).export_tvm(
        spec={
            "prefill": {"x": spec.Tensor([1, "length", HIDDEN], "float32"), **forward},
            "decode": {"x": spec.Tensor(["batch", 1, HIDDEN], "float32"), **forward},
            "create_kv_cache": {**sizes, "$": {"param_mode": "none", "effect_mode": "none"}},
        }
    )
    return module, [[int(extent) for extent in weight.shape] for _, weight in weights]


class Recorder:
    """Runs steps with TVM's runtime, and keeps them."""

    def __init__(self, executable, weights: list[np.ndarray], sliding: bool, seed: int):
        self.random = np.random.default_rng(seed)
        self.machine = relax.VirtualMachine(executable, tvm.cpu())
        self.weights = [tvm.runtime.tensor(weight) for weight in weights]
        sizes = [tvm.runtime.ShapeTuple([size]) for size in [*CAPACITY, int(sliding)]]
        self.cache = self.machine["create_kv_cache"](*sizes)
        self.steps = []

    def call(self, name: str, *arguments):
        return tvm.get_global_func(f"vm.builtin.{name}")(self.cache, *arguments)

    def do(self, name: str, *arguments: int) -> None:
        self.call(name, *arguments)
        self.steps.append({"builtin": name, "arguments": list(arguments)})

    def forward(self, **lengths: int) -> None:
        """A pass over sequences; s3=5 is five tokens of sequence 3."""
        ids = [int(name[1:]) for name in lengths]
        counts = list(lengths.values())
        decode = max(counts) == 1
        shape = (len(ids), 1, HIDDEN) if decode else (1, sum(counts), HIDDEN)
        # Few digits, which float32 holds exactly
        x = (self.random.integers(-64, 65, shape) / 64).astype("float32")
        function = "decode" if decode else "prefill"
        self.call("kv_state_begin_forward", tvm.runtime.ShapeTuple(ids), tvm.runtime.ShapeTuple(counts))
        y = self.machine[function](tvm.runtime.tensor(x), self.cache, self.weights)[0].numpy()
        self.call("kv_state_end_forward")
        self.steps.append(
            {"function": function, "sequences": ids, "lengths": counts, "input": numbers(x), "output": numbers(y)}
        )

    def record(self) -> dict:
        pages = int(self.call("attention_kv_cache_get_num_available_pages"))
        return {"steps": self.steps, "freePages": pages}


def numbers(array: np.ndarray) -> list[float]:
    return [float(f"{number:.8g}") for number in array.reshape(-1).tolist()]


def plain(run: Recorder) -> dict:
    run.do("kv_state_add_sequence", 0)
    run.forward(s0=20)
    run.forward(s0=1)
    run.do("kv_state_add_sequence", 7)
    run.forward(s7=33, s0=3)
    run.forward(s0=1, s7=1)
    run.do("kv_state_fork_sequence", 0, 1, -1)
    run.do("kv_state_fork_sequence", 7, 2, 17)
    run.forward(s0=1, s1=1, s2=1, s7=1)
    run.forward(s1=5, s2=18)
    run.do("kv_state_popn", 2, 4)
    run.forward(s2=1, s7=1)
    # The third block of a sequence, and a part of a page that is shared
    run.do("kv_state_fork_sequence", 2, 3, 20)
    run.do("kv_state_remove_sequence", 0)
    run.forward(s3=9, s1=1, s2=4)
    run.do("kv_state_popn", 3, 14)
    for _ in range(3):
        run.forward(s7=1, s2=1, s3=1)
    return run.record()


def sliding(run: Recorder) -> dict:
    run.do("kv_state_add_sequence", 0)
    run.do("attention_kv_cache_enable_sliding_window_for_seq", 0, 24, 5)
    run.forward(s0=20)
    run.do("kv_state_add_sequence", 7)
    run.forward(s7=19, s0=3)
    for _ in range(4):
        run.forward(s0=1, s7=1)
    run.do("kv_state_fork_sequence", 7, 2, 17)
    run.forward(s0=25, s2=12)
    for _ in range(14):
        run.forward(s2=1, s0=1)
    return run.record()


def record(rope: RopeMode, weights: list[np.ndarray]) -> dict:
    """The steps with TVM's runtime."""
    native = tvm.target.Target("llvm")
    executable = relax.build(export(native, rope)[0], target=native)
    return {
        "plain": plain(Recorder(executable, weights, False, 2)),
        "sliding": sliding(Recorder(executable, weights, True, 3)),
    }


def main() -> None:
    cpu = tvm.target.Target(WASM)
    gpu = tvm.target.Target({"kind": "webgpu"}, host=WASM)
    module, shapes = export(cpu, RopeMode.NORMAL)
    random = np.random.default_rng(1)
    weights = [(random.integers(-64, 65, shape) / 128).astype("float32") for shape in shapes]
    listed = [{"shape": shape, "data": numbers(weight)} for shape, weight in zip(shapes, weights)]
    # WebGPU's sines have 11 bits or more, so that what is compared there goes without RoPE
    steps = {"cpu": record(RopeMode.NORMAL, weights), "webgpu": record(RopeMode.NONE, weights)}
    fixture = {"capacity": CAPACITY, "hidden": HIDDEN, "weights": listed, "steps": steps}
    text = json.dumps(fixture, separators=(",", ":"))
    (FIXTURES / "attention.json").write_text(text + "\n", encoding="utf-8")
    compile_fixture("attention_cpu", module, WASM)
    compile_fixture("attention_webgpu", export(gpu, RopeMode.NONE)[0], {"kind": "webgpu"})


if __name__ == "__main__":
    main()
