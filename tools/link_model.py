#!/usr/bin/env python3
"""Links what TVM compiled for wasm32 with Sluice's runtime into one .wasm, without Emscripten.

  tools/link_model.py -o model.wasm lib0.o devc.o

or from Python, as the `fcompile` of TVM's export_library:

  import link_model
  executable.export_library("model.wasm", fcompile=link_model.link)

The module has the exports and imports of sluice_runtime.wasm (hosts/wasm/runtime_exports.txt), and brings the
model's functions as its system library: tvmjs's JS and `sluice/runtime` run it. Needs clang 19 with wasi-libc and
libc++ for wasm32, as the project's own wasm build does (`tools/setup.sh`), and wasm-opt from Binaryen. The archive
that models are linked with is `cmake --build --preset wasm --target sluice_model`.
"""

import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
ARCHIVE = ROOT / "build" / "wasm" / "hosts" / "wasm" / "libsluice_model.a"
EXPORTS = ROOT / "hosts" / "wasm" / "runtime_exports.txt"
CLANG = "clang++-19"
# As sluice_runtime.wasm is linked and shrunk: hosts/wasm/CMakeLists.txt
STACK_BYTES = 1 << 20
MEMORY_BYTES = 1 << 32
FEATURES = ["simd", "bulk-memory", "sign-ext", "nontrapping-float-to-int", "mutable-globals"]


class LinkError(Exception):
    """The objects could not be linked; says why."""


def run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError:
        raise LinkError(f"{command[0]} is not installed (tools/setup.sh installs it)") from None
    if done.returncode != 0:
        raise LinkError(f"{command[0]} failed:\n{done.stderr or done.stdout}")


def link(output, objects, *, archive=None, optimize="-O2", options=()) -> None:
    """Links `objects` (paths) into the module `output`.

    `archive` is libsluice_model.a (default: that of this checkout's build); `optimize` is wasm-opt's level, or None
    to leave it out; `options` go to the linker. Raises LinkError, which says what is missing.
    """
    archive = pathlib.Path(archive or os.environ.get("SLUICE_MODEL_ARCHIVE") or ARCHIVE)
    if not archive.is_file():
        raise LinkError(
            f"{archive} is missing; build it: cmake --preset wasm && "
            "cmake --build --preset wasm --target sluice_model"
        )
    objects = [objects] if isinstance(objects, str | os.PathLike) else list(objects)
    exports = [
        f"-Wl,--export={line.strip()}"
        for line in EXPORTS.read_text(encoding="utf-8").splitlines()
        if line.strip() and not line.startswith("#")
    ]
    linked = f"{output}.linked" if optimize else str(output)
    run([
        CLANG, "--target=wasm32-wasi", "-mexec-model=reactor", "-nostartfiles", "-O0", *exports,
        "-Wl,--gc-sections", f"-Wl,-z,stack-size={STACK_BYTES}", "-Wl,--stack-first",
        f"-Wl,--max-memory={MEMORY_BYTES}", *options, *map(str, objects), str(archive),
        "-o", linked,
    ])  # fmt: skip
    if not optimize:
        return
    try:
        run([
            "wasm-opt", optimize, *(f"--enable-{feature}" for feature in FEATURES), "--strip-debug",
            "--strip-producers", "--strip-target-features", linked, "-o", str(output),
        ])  # fmt: skip
    finally:
        pathlib.Path(linked).unlink()


# export_library asks for these: the objects' format, and that the module registers its symbols
link.object_format = "o"
link.need_system_lib = True


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("objects", nargs="+", help="objects that TVM compiled for wasm32")
    parser.add_argument("-o", "--output", required=True, help="the module to write")
    parser.add_argument("--archive", help="libsluice_model.a (default: that of build/wasm)")
    parser.add_argument(
        "--no-optimize", action="store_true", help="leave wasm-opt out, and the names in"
    )
    arguments = parser.parse_args()
    optimize = None if arguments.no_optimize else "-O2"
    try:
        link(arguments.output, arguments.objects, archive=arguments.archive, optimize=optimize)
    except LinkError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
