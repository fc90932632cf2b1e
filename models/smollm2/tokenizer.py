#!/usr/bin/env python3
"""SmolLM2's tokenizer and chat template, from the vocabulary in its GGUF file.

A GGUF file names its way of cutting text before byte-pair encoding (`tokenizer.ggml.pre`) instead of describing it.
`smollm` is: each digit by itself, then GPT-2's pattern, byte by byte.
"""

import argparse
import json
import pathlib

import gguf_model
import jinja2.sandbox
import tokenizers

CONTROL = 3  # a token's type: never found in text, only written by its own name


def tokenizer_json(metadata: dict) -> dict:
    """A tokenizer.json, as the Hugging Face libraries read it."""
    kind = metadata["tokenizer.ggml.model"], metadata["tokenizer.ggml.pre"]
    if kind != ("gpt2", "smollm"):
        raise ValueError(f"no tokenizer is known for {kind}")
    tokens = metadata["tokenizer.ggml.tokens"]
    types = metadata["tokenizer.ggml.token_type"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": token,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
            if kind == CONTROL
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {**byte_level, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {**byte_level, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def tokenizer_config(metadata: dict) -> dict:
    """A tokenizer_config.json: the chat template and the tokens with a meaning."""
    tokens = metadata["tokenizer.ggml.tokens"]
    return {
        "tokenizer_class": "GPT2Tokenizer",
        "add_bos_token": metadata["tokenizer.ggml.add_bos_token"],
        "bos_token": tokens[metadata["tokenizer.ggml.bos_token_id"]],
        "eos_token": tokens[metadata["tokenizer.ggml.eos_token_id"]],
        "pad_token": tokens[metadata["tokenizer.ggml.padding_token_id"]],
        "unk_token": tokens[metadata["tokenizer.ggml.unknown_token_id"]],
        "model_max_length": metadata["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": metadata["tokenizer.chat_template"],
    }


class Tokenizer:
    """Chats to tokens, and tokens to text."""

    def __init__(self, metadata: dict):
        self.tokenizer = tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(metadata)))
        self.config = tokenizer_config(metadata)
        self.eos = metadata["tokenizer.ggml.eos_token_id"]
        # As transformers sets it up, whose templates these are
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True
        )
        self.template = environment.from_string(self.config["chat_template"])

    def chat(self, messages: list[dict]) -> list[int]:
        """The tokens of a chat up to where the model answers."""
        return self.encode(self.template.render(messages=messages, add_generation_prompt=True))

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Writes the files of the tokenizer beside a model."
    )
    parser.add_argument("model", type=pathlib.Path, help="the GGUF file")
    parser.add_argument(
        "folder", type=pathlib.Path, help="where tokenizer.json and tokenizer_config.json go"
    )
    arguments = parser.parse_args()
    metadata = gguf_model.metadata(gguf_model.read(arguments.model))
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("tokenizer.json", tokenizer_json(metadata)),
        ("tokenizer_config.json", tokenizer_config(metadata)),
    ):
        text = json.dumps(content, ensure_ascii=False)
        (arguments.folder / name).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
