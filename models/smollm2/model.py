"""SmolLM2 as a model of TVM's frontend, for a paged KV cache and with the names of a GGUF file.

The functions are those of a model that MLC-LLM compiles and WebLLM runs: embed, prefill, decode,
create_tir_paged_kv_cache. A module's attributes are called as the tensors of a llama GGUF, so the file's weights need
no renaming; export() adds `_metadata`, which lists them in the order in which the functions take them.

Rotary embedding: a llama GGUF holds the rows of attn_q and attn_k in the order in which dimensions 2i and 2i + 1 of a
head make a pair (gguf's converter permutes them so), which is the order of GPT-J. TVM's kernel has it as
`rope_type: gptj`; with it, the rows stay as they are in the file.
"""

import dataclasses
import json

import tvm
from tvm import relax, te
from tvm.relax.frontend import nn
from tvm.relax.frontend.nn import op
from tvm.relax.frontend.nn.llm.kv_cache import PagedKVCache, RopeMode, TIRPagedKVCache

PAGE_SIZE = 16  # positions a page of the KV cache; TVM's kernels know no other


@dataclasses.dataclass(frozen=True)
class Config:
    """The sizes of a llama, from a GGUF file's metadata."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int
    rope_theta: float
    rms_epsilon: float

    @staticmethod
    def of(metadata: dict) -> "Config":
        """`metadata` is that of a GGUF file: keys with their values."""
        if metadata["general.architecture"] != "llama":
            raise ValueError(f"{metadata['general.architecture']} is not a llama")
        hidden = metadata["llama.embedding_length"]
        heads = metadata["llama.attention.head_count"]
        head_dim = hidden // heads
        if metadata.get("llama.rope.dimension_count", head_dim) != head_dim:
            raise ValueError("only a part of each head is rotated, which this model does not do")
        return Config(
            layers=metadata["llama.block_count"],
            hidden=hidden,
            intermediate=metadata["llama.feed_forward_length"],
            heads=heads,
            kv_heads=metadata["llama.attention.head_count_kv"],
            head_dim=head_dim,
            vocabulary=metadata["llama.vocab_size"],
            context=metadata["llama.context_length"],
            rope_theta=metadata["llama.rope.freq_base"],
            rms_epsilon=metadata["llama.attention.layer_norm_rms_epsilon"],
        )


class Layer(nn.Module):
    """A block: attention and a gated feed-forward network, each added to what came in."""

    def __init__(self, config: Config):
        self.config = config
        hidden, kv = config.hidden, config.kv_heads * config.head_dim
        self.attn_norm = nn.RMSNorm(hidden, -1, config.rms_epsilon, bias=False)
        self.attn_q = nn.Linear(hidden, hidden, bias=False)
        self.attn_k = nn.Linear(hidden, kv, bias=False)
        self.attn_v = nn.Linear(hidden, kv, bias=False)
        self.attn_output = nn.Linear(hidden, hidden, bias=False)
        self.ffn_norm = nn.RMSNorm(hidden, -1, config.rms_epsilon, bias=False)
        self.ffn_gate = nn.Linear(hidden, config.intermediate, bias=False)
        self.ffn_up = nn.Linear(hidden, config.intermediate, bias=False)
        self.ffn_down = nn.Linear(config.intermediate, hidden, bias=False)

    def attention(self, x: nn.Tensor, cache: PagedKVCache, layer: int) -> nn.Tensor:
        config = self.config
        batch, length, _ = x.shape
        qkv = op.concat([self.attn_q(x), self.attn_k(x), self.attn_v(x)], dim=-1)
        qkv = qkv.reshape(batch, length, config.heads + 2 * config.kv_heads, config.head_dim)
        out = cache.attention_with_fused_qkv(
            layer, qkv, config.heads, sm_scale=config.head_dim**-0.5
        )
        return self.attn_output(out.reshape(batch, length, config.hidden))

    def forward(self, x: nn.Tensor, cache: PagedKVCache, layer: int) -> nn.Tensor:
        x = self.attention(self.attn_norm(x), cache, layer) + x
        y = self.ffn_norm(x)
        return self.ffn_down(op.silu(self.ffn_gate(y)) * self.ffn_up(y)) + x


class Model(nn.Module):
    """The whole. Shapes: tokens [n] int32; embeddings [batch, n, hidden]; logits [batch, 1, vocabulary] float32."""

    def __init__(self, config: Config, target: tvm.target.Target, dtype: str = "float32"):
        self.config = config
        self.target = target
        self.dtype = dtype
        self.token_embd = nn.Embedding(config.vocabulary, config.hidden)
        self.blk = nn.ModuleList([Layer(config) for _ in range(config.layers)])
        self.output_norm = nn.RMSNorm(config.hidden, -1, config.rms_epsilon, bias=False)
        self.to(dtype)

    def embed(self, input_ids: nn.Tensor) -> nn.Tensor:
        return self.token_embd(input_ids)

    def hidden_states(self, x: nn.Tensor, cache: PagedKVCache) -> nn.Tensor:
        for index, layer in enumerate(self.blk):
            x = layer(x, cache, index)
        return self.output_norm(x)

    def logits(self, x: nn.Tensor) -> nn.Tensor:
        """The embedding's table is the output's, too."""
        return op.matmul(x, op.permute_dims(self.token_embd.weight), out_dtype="float32")

    def prefill(self, input_embed: nn.Tensor, paged_kv_cache: PagedKVCache):
        """The logits of the last position alone."""

        def last(x: te.Tensor) -> te.Tensor:
            batch, length, hidden = x.shape
            return te.compute((batch, 1, hidden), lambda i, _, k: x[i, length - 1, k], name="last")

        x = self.hidden_states(input_embed, paged_kv_cache)
        return self.logits(op.tensor_expr_op(last, "last", [x])), paged_kv_cache

    def decode(self, input_embed: nn.Tensor, paged_kv_cache: PagedKVCache):
        return self.logits(self.hidden_states(input_embed, paged_kv_cache)), paged_kv_cache

    def create_tir_paged_kv_cache(
        self,
        max_batch_size,
        max_total_seq_len,
        prefill_chunk_size,
        page_size,
        support_sliding_window,
    ) -> PagedKVCache:
        config = self.config
        return TIRPagedKVCache(
            attn_kind="mha",
            max_batch_size=max_batch_size,
            max_total_seq_len=max_total_seq_len,
            prefill_chunk_size=prefill_chunk_size,
            page_size=page_size,
            support_sliding_window=support_sliding_window,
            layer_partition=relax.ShapeExpr([0, config.layers]),
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            qk_head_dim=config.head_dim,
            v_head_dim=config.head_dim,
            mla_original_qk_head_dim=0,
            mla_original_v_head_dim=0,
            rope_mode=RopeMode.NORMAL,
            rope_scale=1,
            rope_theta=config.rope_theta,
            rope_scaling={"rope_type": "gptj"},
            rope_ext_factors=relax.prim_value(0),
            rotary_dim=config.head_dim,
            enable_disaggregation=False,
            dtype=self.dtype,
            target=self.target,
        )

    def spec(self) -> nn.spec.ModuleSpec:
        hidden, dtype = self.config.hidden, self.dtype
        cache = nn.spec.Object(object_type=PagedKVCache)
        weights = {"param_mode": "packed", "effect_mode": "none"}
        functions = {
            "embed": {"input_ids": nn.spec.Tensor(["seq_len"], "int32"), "$": weights},
            "prefill": {
                "input_embed": nn.spec.Tensor([1, "seq_len", hidden], dtype),
                "paged_kv_cache": cache,
                "$": weights,
            },
            "decode": {
                "input_embed": nn.spec.Tensor([1, 1, hidden], dtype),
                "paged_kv_cache": cache,
                "$": weights,
            },
            "create_tir_paged_kv_cache": {
                "max_batch_size": int,
                "max_total_seq_len": int,
                "prefill_chunk_size": int,
                "page_size": int,
                "support_sliding_window": int,
                "$": {"param_mode": "none", "effect_mode": "none"},
            },
        }
        return nn.spec.ModuleSpec.from_raw(functions, self)


def export(config: Config, target: tvm.target.Target, dtype: str, chunk: int):
    """The model as (IRModule, metadata). Memory is planned for prefills of at most `chunk` tokens."""
    model = Model(config, target, dtype)
    module, parameters = model.export_tvm(spec=model.spec())
    for variable, function in module.functions_items():
        if isinstance(function, relax.Function):
            bounded = function.with_attr("tir_var_upper_bound", {"seq_len": chunk})
            module.update_func(variable, bounded)
    metadata = {
        "model_type": "llama",
        "quantization": {"float32": "q0f32", "float16": "q0f16"}[dtype],
        "context_window_size": config.context,
        "sliding_window_size": -1,
        "attention_sink_size": -1,
        "prefill_chunk_size": chunk,
        "tensor_parallel_shards": 1,
        "pipeline_parallel_stages": 1,
        "kv_state_kind": "kv_cache",
        "max_batch_size": 1,
        "vocab_size": config.vocabulary,
        "kv_cache": {
            "num_hidden_layers": config.layers,
            "num_attention_heads": config.heads,
            "num_key_value_heads": config.kv_heads,
            "head_dim": config.head_dim,
        },
        "params": [
            {"name": name, "shape": [int(extent) for extent in each.shape], "dtype": each.dtype}
            for name, each in parameters
        ],
    }
    builder = relax.BlockBuilder(module)
    with builder.function("_metadata", params=[]):
        builder.emit_func_output(tvm.ir.StringImm(json.dumps(metadata)))
    return builder.finalize(), metadata
