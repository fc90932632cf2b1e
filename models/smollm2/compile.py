#!/usr/bin/env python3
"""Compiles SmolLM2 with TVM: for WebGPU into objects for tools/link_model.py, or for this machine's CPU.

  models/smollm2/compile.py MODEL.gguf webgpu --dtype float32 --output FOLDER   FOLDER/lib0.o, devc.o, model.txt
  models/smollm2/compile.py MODEL.gguf llvm --output FOLDER                     FOLDER/model.so

model.txt is the VM's code as text. The GGUF file gives the sizes alone, not the weights.
"""

import argparse
import pathlib
import shutil

import gguf_model
import tvm
from model import Config, export
from software import RowAThread, TileAThread
from tvm import relax
from tvm.s_tir import dlight

CHUNK = 512  # tokens that one prefill takes at most
WASM = {"kind": "llvm", "mtriple": "wasm32-unknown-unknown-wasm"}


def pipeline(target: tvm.target.Target, software: bool) -> tvm.transform.Pass:
    """The passes from the frontend's module to what the VM runs, as MLC-LLM orders them."""
    schedules = []
    if target.kind.name != "llvm":
        schedules.append(
            dlight.ApplyDefaultSchedule(
                *([RowAThread(), TileAThread()] if software else []),
                dlight.gpu.Matmul(),
                dlight.gpu.GEMV(),
                dlight.gpu.Reduction(),
                dlight.gpu.GeneralReduction(),
                dlight.gpu.Fallback(),
            )
        )
    return tvm.transform.Sequential(
        [
            relax.transform.FuseTransposeMatmul(),
            relax.transform.LegalizeOps(),
            relax.transform.AnnotateTIROpPattern(),
            relax.transform.FoldConstant(),
            relax.transform.FuseOps(),
            relax.transform.FuseTIR(),
            relax.transform.DeadCodeElimination(),
            *schedules,
            relax.transform.RewriteDataflowReshape(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            # Reshapes have become views: their kernels are called no more
            relax.transform.DeadCodeElimination(),
            relax.transform.StaticPlanBlockMemory(),
            relax.transform.LowerAllocTensor(),
            relax.transform.KillAfterLastUse(),
            relax.transform.LowerRuntimeBuiltin(),
            relax.transform.VMShapeLower(),
            relax.transform.AttachGlobalSymbol(),
        ]
    )


def build(config: Config, target: tvm.target.Target, dtype: str, chunk: int, software: bool):
    module, _ = export(config, target, dtype, chunk)
    with target:
        return relax.build(module, target=target, relax_pipeline=pipeline(target, software))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("target", choices=["webgpu", "llvm"])
    parser.add_argument("--dtype", choices=["float32", "float16"], default="float32")
    parser.add_argument("--software", action="store_true", help="for an adapter that is software")
    parser.add_argument("--chunk", type=int, default=CHUNK)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    config = Config.of(gguf_model.metadata(gguf_model.read(arguments.model)))
    if arguments.target == "llvm":
        target = tvm.target.Target("llvm")
    else:
        target = tvm.target.Target({"kind": "webgpu"}, host=WASM)
    executable = build(config, target, arguments.dtype, arguments.chunk, arguments.software)
    arguments.output.mkdir(parents=True, exist_ok=True)
    if arguments.target == "llvm":
        executable.export_library(str(arguments.output / "model.so"))
        return

    def keep(_, objects):
        for path in map(pathlib.Path, objects):
            shutil.copyfile(path, arguments.output / path.name)

    keep.object_format = "o"
    executable.export_library(str(arguments.output / "model.wasm"), fcompile=keep)
    (arguments.output / "model.txt").write_text(executable.as_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
