#!/usr/bin/env python3
"""Compiles the smallest model that chats for the CPU, for tests/chat: tests/chat/fixtures/tiny.o and tiny.lib.o.

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


def main() -> None:
    target = tvm.target.Target(WASM)
    executable = build(CONFIG, target, "float32", CHUNK, software=False)
    fixtures = pathlib.Path(__file__).resolve().parent / "fixtures"
    fixtures.mkdir(exist_ok=True)

    def keep(_, objects):
        for name, path in zip(("tiny.lib.o", "tiny.o"), sorted(objects), strict=True):
            shutil.copyfile(path, fixtures / name)

    keep.object_format = "o"
    executable.export_library("tiny.wasm", fcompile=keep)


if __name__ == "__main__":
    main()
