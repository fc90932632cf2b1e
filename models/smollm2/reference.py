#!/usr/bin/env python3
"""SmolLM2 in plain numpy, float32: what compiled models are held against.

  models/smollm2/reference.py MODEL.gguf expected.json   answers ten prompts, greedily, and writes the tokens
  models/smollm2/reference.py MODEL.gguf --text "…"      continues a text

It shares no code with the compiled model: every position attends to all before it, nothing is paged or fused, and the
weights are dequantised by the format's own library.
"""

import argparse
import importlib.metadata
import json
import pathlib
import time

import gguf_model
import numpy as np
from tokenizer import Tokenizer

TOKENS = 64
# Of the logits after a prompt, those of every so many-th token are written
LOGITS_STRIDE = 512
PROMPTS = [
    "What is the capital of France?",
    "Explain gravity to a child in two sentences.",
    "Write a short poem about the sea.",
    "What is 17 plus 25?",
    "List three healthy breakfast ideas.",
    "Translate 'good morning' to Spanish.",
    "Write a Python function that reverses a string.",
    "Who wrote Romeo and Juliet?",
    "Summarize why sleep is important.",
    "Wie heißt die Hauptstadt von Österreich? 🙂",
]


class Reference:
    """One sequence; tokens are appended and give the logits of the last of them."""

    def __init__(self, metadata: dict, weights: dict[str, np.ndarray]):
        self.weights = weights
        self.layers = metadata["llama.block_count"]
        self.heads = metadata["llama.attention.head_count"]
        self.kv_heads = metadata["llama.attention.head_count_kv"]
        self.epsilon = np.float32(metadata["llama.attention.layer_norm_rms_epsilon"])
        width = metadata["llama.embedding_length"] // self.heads
        # float64, so that the angles of late positions are those of the formula
        pair = np.arange(width // 2, dtype=np.float64)
        self.frequencies = metadata["llama.rope.freq_base"] ** (-2 * pair / width)
        self.width = width
        self.clear()

    def clear(self) -> None:
        none = np.zeros((0, self.kv_heads, self.width), np.float32)
        self.keys = [none] * self.layers
        self.values = [none] * self.layers

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        mean = np.mean(x * x, axis=-1, keepdims=True)
        return x / np.sqrt(mean + self.epsilon) * self.weights[f"{name}.weight"]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.weights[f"{name}.weight"].T

    def rotate(self, x: np.ndarray, start: int) -> np.ndarray:
        """[n, heads, width]: dimensions 2i and 2i + 1 by an angle of position * theta^(-2i / width)."""
        positions = np.arange(start, start + len(x))
        angles = positions[:, None, None] * self.frequencies
        cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
        even, odd = x[..., 0::2], x[..., 1::2]
        return np.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1).reshape(x.shape)

    def attend(self, x: np.ndarray, layer: int) -> np.ndarray:
        name, n = f"blk.{layer}.attn", len(x)
        start = len(self.keys[layer])
        q = self.linear(x, f"{name}_q").reshape(n, self.heads, self.width)
        k = self.linear(x, f"{name}_k").reshape(n, self.kv_heads, self.width)
        v = self.linear(x, f"{name}_v").reshape(n, self.kv_heads, self.width)
        q = self.rotate(q, start)
        keys = np.concatenate([self.keys[layer], self.rotate(k, start)])
        values = np.concatenate([self.values[layer], v])
        self.keys[layer], self.values[layer] = keys, values

        group = self.heads // self.kv_heads
        q = q.transpose(1, 0, 2)
        k = np.repeat(keys.transpose(1, 0, 2), group, axis=0)
        v = np.repeat(values.transpose(1, 0, 2), group, axis=0)
        scores = q @ k.transpose(0, 2, 1) * np.float32(self.width**-0.5)
        hidden = np.arange(len(keys))[None, :] > np.arange(start, start + n)[:, None]
        scores[:, hidden] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        out = scores / scores.sum(-1, keepdims=True) @ v
        return self.linear(out.transpose(1, 0, 2).reshape(n, -1), f"{name}_output")

    def append(self, tokens: list[int]) -> np.ndarray:
        """The logits after the last of `tokens`: [vocabulary], float32."""
        x = self.weights["token_embd.weight"][tokens]
        for layer in range(self.layers):
            name = f"blk.{layer}"
            x = x + self.attend(self.norm(x, f"{name}.attn_norm"), layer)
            y = self.norm(x, f"{name}.ffn_norm")
            gate = self.linear(y, f"{name}.ffn_gate")
            silu = gate / (1 + np.exp(-gate))
            x = x + self.linear(silu * self.linear(y, f"{name}.ffn_up"), f"{name}.ffn_down")
        return self.linear(self.norm(x[-1], "output_norm"), "token_embd")

    def greedy(self, tokens: list[int], count: int) -> tuple[list[int], float, np.ndarray]:
        """The next `count` tokens, also behind an end of the answer; by how much the closest choice was made; and the
        logits after `tokens`."""
        self.clear()
        result, margin = [], np.inf
        logits = after_prompt = self.append(tokens)
        for _ in range(count):
            second, first = np.partition(logits, -2)[-2:]
            margin = min(margin, float(first - second))
            result.append(int(np.argmax(logits)))
            logits = self.append(result[-1:])
        return result, margin, after_prompt


def versions() -> dict[str, str]:
    return {
        name: importlib.metadata.version(name) for name in ("numpy", "gguf", "tokenizers", "jinja2")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path, nargs="?")
    parser.add_argument("--text", help="a text to continue, instead of the ten prompts")
    arguments = parser.parse_args()
    reader = gguf_model.read(arguments.model)
    metadata = gguf_model.metadata(reader)
    tokenizer = Tokenizer(metadata)
    reference = Reference(metadata, gguf_model.weights(reader))
    if arguments.text is not None:
        tokens, *_ = reference.greedy(tokenizer.encode(arguments.text), TOKENS)
        print(arguments.text + tokenizer.decode(tokens))
        return

    answers = []
    for prompt in PROMPTS:
        start = time.monotonic()
        tokens = tokenizer.chat([{"role": "user", "content": prompt}])
        answer, margin, logits = reference.greedy(tokens, TOKENS)
        text = tokenizer.decode(answer)
        answers.append(
            {
                "prompt": prompt,
                "tokens": tokens,
                "answer": answer,
                "text": text,
                "margin": round(margin, 5),
                "logits": [round(float(each), 5) for each in logits[::LOGITS_STRIDE]],
            }
        )
        print(
            f"{prompt} ({len(tokens)} tokens, {time.monotonic() - start:.1f} s, margin {margin:.5f})\n  {text!r}",
            flush=True,
        )
    if arguments.output is not None:
        lines = ",\n".join(json.dumps(each, ensure_ascii=False) for each in answers)
        head = json.dumps({"model": arguments.model.name, "versions": versions()})[:-1]
        arguments.output.write_text(f'{head}, "answers": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
