#!/usr/bin/env python3
"""TVM's own RPC client against a server of wasm modules that waits at TVM's RPC proxy under the key "wasm".

  client.py PORT SCRATCH [--theirs | --record]

Compiles functions for the CPU and for WebGPU with TVM, links them with Sluice's runtime (tools/link_model.py), and has
the server run them. SCRATCH is a folder for what is compiled. With --theirs the server is tvmjs's JavaScript, which
tells no client what is wrong with its module; with --record only what a recording is to hold is done.
"""

import argparse
import pathlib
import sys
import time

import numpy as np
import tvm
from tvm import relax, rpc, te
from tvm.script import relax as R

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tools"))
import link_model

ROOT = pathlib.Path(__file__).resolve().parents[2]
RUNTIME = ROOT / "packages" / "sluice" / "dist" / "sluice_runtime.wasm"
HOST = {"kind": "llvm", "mtriple": "wasm32-unknown-unknown-wasm"}


def connect(port: int, wasm: bytes) -> rpc.RPCSession:
    return rpc.connect("127.0.0.1", port, key="wasm",
                       session_constructor_args=["rpc.WasmSession", wasm])  # fmt: skip


def cpu_module(scratch: pathlib.Path) -> bytes:
    """add_one(float32[n], float32[n]) on the CPU."""
    n = te.var("n")
    a = te.placeholder((n,), name="a")
    b = te.compute(a.shape, lambda i: a[i] + 1.0, name="b")
    mod = tvm.IRModule.from_expr(te.create_prim_func([a, b]).with_attr("global_symbol", "add_one"))
    path = scratch / "cpu.wasm"
    built = tvm.build(mod.with_attr("system_lib_prefix", ""), target=tvm.target.Target(HOST))
    built.export_library(str(path), fcompile=link_model.link)
    return path.read_bytes()


@tvm.script.ir_module
class Add:
    @R.function
    def main(x: R.Tensor([1024], "float32"), y: R.Tensor([1024], "float32")):
        return R.add(x, y)


def webgpu_module(scratch: pathlib.Path) -> bytes:
    """A model of relax on WebGPU: main(x, y) = x + y."""
    mod = relax.get_pipeline()(Add)
    sch = tvm.s_tir.Schedule(mod)
    sch.work_on("add")
    (i,) = sch.get_loops(block=sch.get_sblock("T_add"))
    blocks, threads = sch.split(i, [None, 128])
    sch.bind(blocks, "blockIdx.x")
    sch.bind(threads, "threadIdx.x")
    path = scratch / "webgpu.wasm"
    target = tvm.target.Target("webgpu", host=HOST)
    built = relax.build(sch.mod, target)
    built.export_library(str(path), fcompile=link_model.link)
    return path.read_bytes()


def expect_error(action, *pieces: str) -> None:
    try:
        action()
    except Exception as error:
        for piece in pieces:
            assert piece in str(error), f"{piece!r} is not in: {error}"
    else:
        raise AssertionError(f"no error with {pieces}")


def check_functions(remote: rpc.RPCSession) -> None:
    add_one = remote.get_function("tvmjs.testing.add_one")
    assert add_one(41) == 42
    expect_error(lambda: add_one("x"), "tvmjs.testing.add_one", "must be int")
    expect_error(lambda: remote.get_function("no.such")(1))
    # A function of the server's own, and one that takes its time
    assert remote.get_function("tvm_rpc.concatenate")("a", "", "bc") == "abc"
    assert remote.get_function("testing.asyncAddOne")(4) == 5
    shape = remote.get_function("ffi.Shape")(2, 3)
    assert remote.get_function("ffi.Array")(shape, "text", 1.5) is not None
    call = remote.get_function("tvmjs.testing.call")
    expect_error(lambda: call(1), "tvmjs.testing.call")


def check_tensors(device) -> None:
    rng = np.random.default_rng(1)
    for dtype, shape in [
        ("float32", (10,)), ("float64", (3, 5)), ("int8", (7,)), ("uint8", (2, 2, 2)),
        ("int64", (4,)), ("float16", (33,)), ("bool", (5,)), ("float32", ()), ("float32", (0, 3)),
    ]:  # fmt: skip
        values = (rng.random(shape) * 100).astype(dtype)
        tensor = tvm.runtime.tensor(values, device)
        assert tensor.shape == shape and tensor.dtype == dtype
        np.testing.assert_array_equal(tensor.numpy(), values)
    a = tvm.runtime.tensor(np.arange(6, dtype="float32"), device)
    b = tvm.runtime.empty((6,), "float32", device)
    a.copyto(b)
    np.testing.assert_array_equal(b.numpy(), np.arange(6, dtype="float32"))
    device.sync()


def check_throughput(device, mebibytes: int) -> None:
    values = np.arange(mebibytes << 18, dtype="uint32")
    start = time.perf_counter()
    tensor = tvm.runtime.tensor(values, device)
    up = time.perf_counter()
    same = np.array_equal(tensor.numpy(), values)
    down = time.perf_counter()
    assert same
    print(f"{mebibytes} MiB: up {mebibytes / (up - start):.1f} MiB/s, down {mebibytes / (down - up):.1f} MiB/s")


def check_cpu_module(remote: rpc.RPCSession) -> None:
    device = remote.cpu(0)
    assert device.exist
    lib = remote.system_lib()
    add_one = lib["add_one"]
    values = np.arange(100, dtype="float32")
    a = tvm.runtime.tensor(values, device)
    b = tvm.runtime.empty((100,), "float32", device)
    add_one(a, b)
    np.testing.assert_array_equal(b.numpy(), values + 1)
    c = tvm.runtime.empty((99,), "float32", device)
    expect_error(lambda: add_one(a, c), "add_one")
    times = lib.time_evaluator("add_one", device, number=50, repeat=3, min_repeat_ms=5)(a, b)
    assert len(times.results) == 3 and all(0 < t < 0.1 for t in times.results), times
    print(f"add_one: {times.mean * 1e6:.2f} us on the CPU")
    expect_error(lambda: lib.time_evaluator("no_such", device, number=1)(a, b))


def check_webgpu_module(remote: rpc.RPCSession) -> None:
    device = remote.webgpu(0)
    assert device.exist
    check_tensors(device)
    vm = relax.VirtualMachine(remote.system_lib(), device=device)
    rng = np.random.default_rng(2)
    x, y = (rng.random(1024, dtype="float32") for _ in range(2))
    on_gpu = [tvm.runtime.tensor(each, device) for each in (x, y)]
    vm.set_input("main", *on_gpu)
    vm.invoke_stateful("main")
    np.testing.assert_array_equal(vm.get_outputs("main").numpy(), x + y)
    timed = vm.time_evaluator("invoke_stateful", device, number=5, repeat=2)("main")
    assert len(timed.results) == 2 and all(t > 0 for t in timed.results), timed
    print(f"main: {timed.mean * 1e6:.0f} us on WebGPU")


def check_refusals(port: int) -> None:
    """Clients that bring no module, or one that does not start, are told so, and the server goes on."""
    expect_error(lambda: rpc.connect("127.0.0.1", port, key="wasm"), "rpc.WasmSession")
    expect_error(lambda: connect(port, b"\0asm this is none"), "WebSocketRPCServer[wasm]")


def until_connected(action):
    """The server needs a moment to come back to the proxy."""
    for _ in range(50):
        try:
            return action()
        except Exception as error:
            if "cannot find server that matches key" not in str(error):
                raise
            time.sleep(0.2)
    raise AssertionError("the server has not come back to the proxy")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("scratch", type=pathlib.Path)
    parser.add_argument("--theirs", action="store_true")
    parser.add_argument("--record", action="store_true")
    args = parser.parse_args()
    args.scratch.mkdir(parents=True, exist_ok=True)
    if args.record:
        remote = until_connected(lambda: connect(args.port, RUNTIME.read_bytes()))
        check_functions(remote)
        check_tensors(remote.cpu(0))
        return
    if not args.theirs:
        until_connected(lambda: check_refusals(args.port))
    remote = until_connected(lambda: connect(args.port, cpu_module(args.scratch)))
    check_functions(remote)
    check_tensors(remote.cpu(0))
    check_cpu_module(remote)
    check_throughput(remote.cpu(0), 24)
    del remote
    remote = until_connected(lambda: connect(args.port, webgpu_module(args.scratch)))
    check_webgpu_module(remote)
    check_throughput(remote.webgpu(0), 8)
    print("all is well")


if __name__ == "__main__":
    main()
