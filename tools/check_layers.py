#!/usr/bin/env python3
"""Holds the dependency direction of docs/architecture.md: each layer uses only those above it.

C++: every #include "core/…" or "hosts/…" of a file. TypeScript: the imports of the package's sources
and sinks, which know nothing of the engine or the entries. Prints each wrong line; exits 1 when there
is one.
"""

import pathlib
import posixpath
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# From the top down; a layer may include itself and any that stands on a line before it. Folders of one
# line do not see each other.
LAYERS = [
    ("core/base",),
    ("core/formats", "core/store", "core/ffi"),
    ("core/load",),
    ("core/runtime",),
    ("core/vm", "core/rpc"),
    ("hosts/wasm", "hosts/native"),
]
RANK = {folder: rank for rank, row in enumerate(LAYERS) for folder in row}

# What a file under packages/sluice/src/<folder>/ may import, as folders or files of src
TS_ROOT = "packages/sluice/src"
TS_ALLOWED = {
    "sources": ("sources", "errors", "types", "util", "generated"),
    "sinks": ("sinks", "errors", "types", "util", "generated"),
}

INCLUDE = re.compile(r'^\s*#\s*include\s*"((?:core|hosts)/[^"]+)"', re.MULTILINE)
IMPORT = re.compile(r"""(?:\bfrom|\bimport)\s*\(?\s*['"](\.[^'"]+)['"]""")


def layer_of(path: str) -> str | None:
    return next((folder for folder in RANK if path.startswith(folder + "/")), None)


def check_cpp(path: str, text: str) -> list[str]:
    layer = layer_of(path)
    if layer is None:
        return []
    problems = []
    for match in INCLUDE.finditer(text):
        target = layer_of(match[1])
        line = text.count("\n", 0, match.start(1)) + 1
        if target is None:
            problems.append(f'{path}:{line}: "{match[1]}" is in no layer that {path} may use')
        elif target != layer and RANK[target] >= RANK[layer]:
            problems.append(f'{path}:{line}: {layer} must not include "{match[1]}" ({target})')
    return problems


def check_ts(path: str, text: str) -> list[str]:
    inside = posixpath.relpath(path, TS_ROOT)
    folder = inside.split("/")[0]
    if folder not in TS_ALLOWED or "/" not in inside:
        return []
    problems = []
    for match in IMPORT.finditer(text):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(inside), match[1]))
        first = re.sub(r"\.[jt]s$", "", target.split("/")[0])
        if first not in TS_ALLOWED[folder]:
            line = text.count("\n", 0, match.start(1)) + 1
            problems.append(f"{path}:{line}: {folder} must not import '{match[1]}'")
    return problems


def check(path: str, text: str) -> list[str]:
    """The wrong lines of one file, as `path:line: what is wrong`."""
    if path.endswith((".h", ".cc")):
        return check_cpp(path, text)
    if path.startswith(TS_ROOT + "/") and path.endswith(".ts"):
        return check_ts(path, text)
    return []


def self_test() -> None:
    """The checker finds what it is there for."""
    assert check("core/formats/a.cc", '#include "core/base/error.h"\n') == []
    assert check("core/formats/a.cc", '#include "core/load/codec.h"\n') != []
    assert check("core/store/a.cc", '#include "core/formats/open.h"\n') != []
    assert check("core/ffi/a.cc", '#include "core/base/error.h"\n') == []
    assert check("core/ffi/a.cc", '#include "core/store/journal.h"\n') != []
    assert check("core/rpc/a.cc", '#include "core/runtime/tensor.h"\n') == []
    assert check("core/rpc/a.cc", '#include "core/vm/vm.h"\n') != []
    assert check("hosts/wasm/a.cc", '#include "hosts/native/b.h"\n') != []
    assert check("core/base/a.cc", '#include "core/elsewhere/b.h"\n') != []
    assert check(TS_ROOT + "/sources/http.ts", "import { a } from '../errors.js';") == []
    assert check(TS_ROOT + "/sources/http.ts", "import { a } from '../engine/engine.js';") != []
    assert check(TS_ROOT + "/sinks/cpu.ts", "export * from '../index.js';") != []


def main() -> int:
    self_test()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()
    problems = []
    for path in listed:
        if path.endswith((".h", ".cc", ".ts")) and (ROOT / path).is_file():
            problems += check(path, (ROOT / path).read_text(encoding="utf-8"))
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
