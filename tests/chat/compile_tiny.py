#!/usr/bin/env python3
"""Compiles the smallest model that chats: tests/chat/fixtures/tiny.o and tiny.lib.o for the CPU, tiny_webgpu.* for
adapters that are software.

It is the model of models/smollm2 with other sizes, and so needs what models/smollm2/build.sh installs in
build/smollm2/python (PYTHONPATH). Its weights are made by the test.
"""

import pathlib
import shutil
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT / "models" / "smollm2"))

import tvm  # noqa: E402
from compile import WASM, build  # noqa: E402
from model import Config  # noqa: E402

CONFIG = Config(
    layers=2,
    hidden=32,
    intermediate=64,
    heads=2,
    kv_heads=1,
    head_dim=16,
    vocabulary=263,
    context=256,
    rope_theta=10000.0,
    rms_epsilon=1e-5,
)
CHUNK = 16


def compile_for(name: str, target: tvm.target.Target) -> None:
    executable = build(CONFIG, target, "float32", CHUNK, software=target.kind.name == "webgpu")
    fixtures = pathlib.Path(__file__).resolve().parent / "fixtures"
    fixtures.mkdir(exist_ok=True)

    def keep(_, objects):
        for ending, path in zip(("lib.o", "o"), sorted(objects), strict=True):
            shutil.copyfile(path, fixtures / f"{name}.{ending}")

    keep.object_format = "o"
    executable.export_library(f"{name}.wasm", fcompile=keep)


def main() -> None:
    compile_for("tiny", tvm.target.Target(WASM))
    compile_for("tiny_webgpu", tvm.target.Target({"kind": "webgpu"}, host=WASM))


if __name__ == "__main__":
    main()
