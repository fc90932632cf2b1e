#!/usr/bin/env python3
"""Compiles the fixtures of tests/vm/fixtures with TVM: small modules for the CPU and for WebGPU.

Needs the Python packages apache-tvm, apache-tvm-ffi and numpy; nothing else of the project does. For each fixture NAME this writes

  NAME.o      the object of its host functions, wasm32
  NAME.lib.o  the object with its import tree (`__tvm_ffi__library_bin`): the VM's executable, and for WebGPU the
              shaders with their launch metadata
  NAME.vm     the VM's executable alone, as VMExecutable::SaveToBytes writes it
  NAME.txt    the same as text

and for each module a JSON file with calls of its functions: arguments, and what numpy says that comes out. There the
dtype, shape and elements make a tensor, {"shape": […]} is a shape, a list a tuple, a number a number. versions.json says
with what the committed files were made.
"""

import argparse
import json
import pathlib
import subprocess

import numpy as np
import tvm
import tvm_ffi
from tvm import relax
from tvm.script import ir as I
from tvm.script import relax as R
from tvm.script import tirx as T

ROOT = pathlib.Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "vm" / "fixtures"
WASM = {"kind": "llvm", "mtriple": "wasm32-unknown-unknown-wasm"}


# ---- The modules ----


@I.ir_module
class Basic:
    """Elementwise functions, dynamic shapes, mathematics, a branch."""

    @R.function
    def add_one(x: R.Tensor(("n",), "float32")) -> R.Tensor(("n",), "float32"):
        with R.dataflow():
            y = R.add(x, R.const(1.0, "float32"))
            R.output(y)
        return y

    @R.function
    def matmul(
        x: R.Tensor(("n", "k"), "float32"), w: R.Tensor(("k", "m"), "float32")
    ) -> R.Tensor(("n", "m"), "float32"):
        with R.dataflow():
            y = R.matmul(x, w)
            R.output(y)
        return y

    @R.function
    def softmax(x: R.Tensor(("n", 16), "float32")) -> R.Tensor(("n", 16), "float32"):
        with R.dataflow():
            y = R.nn.softmax(x, axis=-1)
            R.output(y)
        return y

    @R.function
    def chain(
        x: R.Tensor(("n", 8), "float32"), w: R.Tensor((8, 8), "float32")
    ) -> R.Tensor(("n", 8), "float32"):
        with R.dataflow():
            a = R.matmul(x, w)
            b = R.nn.silu(a)
            c = R.matmul(b, w)
            d = R.add(c, x)
            R.output(d)
        return d

    @R.function
    def choose(
        c: R.Tensor((), "bool"), x: R.Tensor(("n",), "float32")
    ) -> R.Tensor(("n",), "float32"):
        if c:
            y = R.add(x, x)
        else:
            y = R.multiply(x, x)
        return y


@I.ir_module
class Control:
    """What the VM itself does: recursion, closures, tuples, shapes, constants."""

    @R.function
    def countdown(n: R.Tensor((), "int32"), x: R.Tensor((3,), "float32")) -> R.Tensor((3,), "float32"):
        cls = Control
        stop = R.less_equal(n, R.const(0, "int32"))
        if stop:
            y = x
        else:
            m = R.subtract(n, R.const(1, "int32"))
            z = R.add(x, x)
            y = cls.countdown(m, z)
        return y

    @R.function
    def captured(
        x: R.Tensor((2, 3), "float32"), y: R.Tensor((2, 3), "float32")
    ) -> R.Tensor((2, 3), "float32"):
        @R.function
        def inner(z: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
            s = R.subtract(x, z)
            return s

        return inner(y)

    @R.function
    def make_adder(x: R.Tensor((2, 3), "float32")) -> R.Callable(
        (R.Tensor((2, 3), "float32"),), R.Tensor((2, 3), "float32")
    ):
        @R.function
        def adder(z: R.Tensor((2, 3), "float32")) -> R.Tensor((2, 3), "float32"):
            s = R.add(x, z)
            return s

        return adder

    @R.function
    def tuples(
        t: R.Tuple(R.Tensor(("n",), "float32"), R.Tuple(R.Tensor(("n",), "float32"), R.Shape(["n"])))
    ) -> R.Tuple(R.Tensor(("n",), "float32"), R.Tuple(R.Shape(["n"]), R.Tensor(("n",), "float32"))):
        a = t[0]
        b = t[1][0]
        s = t[1][1]
        c = R.add(a, b)
        return (c, (s, a))

    @R.function
    def shapes(x: R.Tensor(("n", "m"), "float32")) -> R.Shape(["n * 2 + m", "n * m", 7]):
        n = T.int64()
        m = T.int64()
        y = R.match_cast(x, R.Tensor((n, m), "float32"))
        return R.shape([n * 2 + m, n * m, 7])

    @R.function
    def flatten(x: R.Tensor(("n", "m"), "float32")) -> R.Tensor(("n * m",), "float32"):
        n = T.int64()
        m = T.int64()
        y = R.match_cast(x, R.Tensor((n, m), "float32"))
        z = R.reshape(y, R.shape([n * m]))
        return z

    @R.function
    def reshape_as(
        x: R.Tensor((6,), "float32"), s: R.Tensor((2,), "int64")
    ) -> R.Tensor("float32", ndim=2):
        a = T.int64()
        b = T.int64()
        shape = R.tensor_to_shape(s)
        known = R.match_cast(shape, R.Shape([a, b]))
        y = R.reshape(x, R.shape([a, b]))
        return y

    @R.function
    def constants() -> R.Tuple(
        R.Tensor((2,), "float32"),
        R.Tensor((2,), "float16"),
        R.Tensor((3,), "int8"),
        R.Tensor((2,), "uint8"),
        R.Tensor((2,), "int32"),
        R.Tensor((2,), "int64"),
        R.Tensor((2,), "bool"),
        R.Tensor((2,), "float64"),
        R.Tensor((), "float32"),
        R.Shape([3, 4]),
    ):
        return (
            R.const(np.array([1.5, -2.25], "float32"), "float32"),
            R.const(np.array([0.5, -8.0], "float16"), "float16"),
            R.const(np.array([-128, 0, 127], "int8"), "int8"),
            R.const(np.array([0, 255], "uint8"), "uint8"),
            R.const(np.array([-(2**31), 2**31 - 1], "int32"), "int32"),
            R.const(np.array([-(2**40), 2**40], "int64"), "int64"),
            R.const(np.array([True, False]), "bool"),
            R.const(np.array([1e300, -0.5], "float64"), "float64"),
            R.const(np.float32(7.0), "float32"),
            R.shape([3, 4]),
        )

    @R.function
    def missing(x: R.Tensor((2,), "float32")) -> R.Tensor((2,), "float32"):
        y = R.call_pure_packed("sluice.test.twice", x, ty_args=R.Tensor((2,), "float32"))
        return y


@I.ir_module
class Half:
    """16-bit floats."""

    @R.function
    def dense(
        x: R.Tensor(("n", "k"), "float16"),
        w: R.Tensor(("k", 8), "float16"),
        b: R.Tensor((8,), "float16"),
    ) -> R.Tensor(("n", 8), "float16"):
        with R.dataflow():
            y = R.matmul(x, w)
            z = R.add(y, b)
            R.output(z)
        return z

    @R.function
    def widen(x: R.Tensor(("n",), "float16")) -> R.Tensor(("n",), "float32"):
        with R.dataflow():
            y = R.astype(x, "float32")
            z = R.multiply(y, y)
            R.output(z)
        return z


# ---- Calls and what comes out ----


def value(of):
    """A value as it stands in the JSON."""
    if isinstance(of, np.ndarray | np.generic):
        array = np.asarray(of)
        return {
            "dtype": str(array.dtype),
            "shape": list(array.shape),
            "data": [x.item() for x in array.reshape(-1)],
        }
    if isinstance(of, tuple):
        return [value(x) for x in of]
    return of


def call(function, arguments, result, kind="cpu"):
    return {"function": function, "arguments": value(arguments), "result": value(result)}


def silu(x):
    return x / (1 + np.exp(-x))


def basic_calls():
    random = np.random.default_rng(1)

    def normal(*shape):
        # Few digits, so that the JSON is small and exact
        return (np.round(random.standard_normal(shape) * 64) / 64).astype("float32")

    calls = []
    for n in (1, 5, 70):
        x = normal(n)
        calls.append(call("add_one", (x,), x + np.float32(1)))
    for n, k, m in ((1, 1, 1), (3, 5, 7), (17, 19, 9)):
        x, w = normal(n, k), normal(k, m)
        calls.append(call("matmul", (x, w), (x.astype("float64") @ w).astype("float32")))
    for n in (1, 4):
        x = normal(n, 16)
        e = np.exp(x - x.max(-1, keepdims=True))
        calls.append(call("softmax", (x,), e / e.sum(-1, keepdims=True)))
    for n in (1, 6):
        x, w = normal(n, 8), normal(8, 8)
        wide, by = x.astype("float64"), w.astype("float64")
        calls.append(call("chain", (x, w), (silu(wide @ by) @ by + wide).astype("float32")))
    x = normal(6)
    calls.append(call("choose", (np.array(True), x), x + x))
    calls.append(call("choose", (np.array(False), x), x * x))
    return calls


def control_calls():
    x = np.array([1, -2, 0.5], "float32")
    a = np.arange(6, dtype="float32").reshape(2, 3)
    b = a * np.float32(0.5) + np.float32(1)
    n = np.array([1, 2, 3, 4], "float32")
    m = np.array([5, 5, 5, 5], "float32")
    return [
        call("countdown", (np.array(0, "int32"), x), x),
        call("countdown", (np.array(5, "int32"), x), x * np.float32(32)),
        call("captured", (a, b), a - b),
        call("tuples", ((n, (m, {"shape": [4]})),), (n + m, ({"shape": [4]}, n))),
        call("shapes", (a,), {"shape": [7, 6, 7]}),
        call("flatten", (a,), a.reshape(-1)),
        call("reshape_as", (a.reshape(-1), np.array([3, 2], "int64")), a.reshape(3, 2)),
        call(
            "constants",
            (),
            (
                np.array([1.5, -2.25], "float32"),
                np.array([0.5, -8.0], "float16"),
                np.array([-128, 0, 127], "int8"),
                np.array([0, 255], "uint8"),
                np.array([-(2**31), 2**31 - 1], "int32"),
                np.array([-(2**40), 2**40], "int64"),
                np.array([True, False]),
                np.array([1e300, -0.5], "float64"),
                np.array(7, "float32"),
                {"shape": [3, 4]},
            ),
        ),
    ]


def half_calls():
    random = np.random.default_rng(2)

    def normal(*shape):
        return (np.round(random.standard_normal(shape) * 16) / 16).astype("float16")

    calls = []
    for n, k in ((1, 4), (5, 24)):
        x, w, b = normal(n, k), normal(k, 8), normal(8)
        wide = x.astype("float64") @ w.astype("float64") + b
        calls.append(call("dense", (x, w, b), wide.astype("float16")))
    x = normal(9)
    calls.append(call("widen", (x,), x.astype("float32") ** 2))
    return calls


# ---- Compiling ----


def compile_fixture(name, module, target, **options):
    """Writes the files of one fixture."""
    executable = relax.build(module, target=tvm.target.Target(target, host=WASM), **options)

    def keep(_, objects):
        for path in map(pathlib.Path, objects):
            kept = f"{name}.lib.o" if path.name == "devc.o" else f"{name}.o"
            # Without debug information, which is more than half of it
            command = ["wasm-ld-19", "-r", "--strip-debug", "-o", str(FIXTURES / kept), str(path)]
            subprocess.run(command, check=True)
            (FIXTURES / kept).chmod(0o644)

    keep.object_format = "o"
    executable.export_library(str(FIXTURES / f"{name}.wasm"), fcompile=keep)
    executable.mod.write_to_file(str(FIXTURES / f"{name}.vm"))
    (FIXTURES / f"{name}.txt").write_text(str(executable.as_text()), encoding="utf-8")


def write_calls(name, calls):
    text = ",\n".join(json.dumps(each, separators=(",", ":")) for each in calls)
    (FIXTURES / f"{name}.json").write_text(f'{{"calls":[\n{text}\n]}}\n', encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args()
    FIXTURES.mkdir(parents=True, exist_ok=True)
    write_calls("basic", basic_calls())
    write_calls("control", control_calls())
    compile_fixture("basic_cpu", Basic, WASM)
    compile_fixture("basic_webgpu", Basic, {"kind": "webgpu"})
    compile_fixture("basic_compiled", Basic, WASM, exec_mode="compiled")
    write_calls("half", half_calls())
    compile_fixture("half_cpu", Half, WASM)
    compile_fixture("control_cpu", relax.transform.LambdaLift()(Control), WASM)
    versions = {
        "apache-tvm": tvm.__version__,
        "apache-tvm-ffi": tvm_ffi.__version__,
        "numpy": np.__version__,
    }
    (FIXTURES / "versions.json").write_text(json.dumps(versions, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
