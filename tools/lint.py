#!/usr/bin/env python3
"""Runs every linter over the project's files; `--fix` rewrites what can be rewritten.

The last line is `N passed, M failed`, a linter counting as one. clang-tidy's verdict on a file is kept
under build/lint by the content of the file, of the headers it includes, of its command and of the
checks, so that only what changed is looked at again.
"""

import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
CACHE = ROOT / "build" / "lint"
CLANG_FORMAT = "clang-format-19"
CLANG_TIDY = "clang-tidy-19"
# A test's own numbers are small, and its speed is no matter
LENIENT = "--checks=-performance-*,-bugprone-implicit-widening-of-multiplication-result"
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)


def files(*suffixes: str) -> list[str]:
    """The project's files of these kinds: tracked, or new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()
    return sorted(p for p in set(listed) if p.endswith(suffixes) and (ROOT / p).is_file())


def run(*command: str) -> bool:
    """Runs a command in the project's folder with its output shown; whether it succeeded."""
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


def node(tool: str, *arguments: str) -> bool:
    return run("node", str(ROOT / "node_modules" / tool), *arguments)


def clang_format(fix: bool) -> bool:
    sources = files(".cc", ".h")
    if fix:
        return run(CLANG_FORMAT, "-i", *sources)
    found = subprocess.run(
        [CLANG_FORMAT, "--dry-run", "-Werror", *sources],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )  # fmt: skip
    # One line a file says enough: the remedy is the same for all
    for path in dict.fromkeys(re.findall(r"^(\S+?):\d+:\d+: error", found.stderr, re.MULTILINE)):
        print(f"{path}: not as {CLANG_FORMAT} writes it (make format)")
    return found.returncode == 0


def project_includes(path: pathlib.Path, seen: set[pathlib.Path]) -> set[pathlib.Path]:
    """`path` and the project's headers that it includes, directly or not."""
    if path in seen:
        return seen
    seen.add(path)
    for name in INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace")):
        for candidate in (ROOT / name, path.parent / name):
            if candidate.is_file():
                project_includes(candidate.resolve(), seen)
                break
    return seen


def tidy_one(entry: dict, checks: bytes) -> tuple[str, str]:
    """clang-tidy on one file: (path, what it found; empty when clean)."""
    path = pathlib.Path(entry["directory"], entry["file"]).resolve()
    digest = hashlib.sha256(checks + entry["command"].encode())
    for part in sorted(project_includes(path, set())):
        digest.update(str(part).encode() + b"\0" + part.read_bytes())
    verdict = CACHE / "tidy" / digest.hexdigest()
    name = str(path.relative_to(ROOT))
    if verdict.exists():
        verdict.touch()
        return name, ""
    lenient = [LENIENT] if path.name.endswith(("_test.cc", "_fuzz.cc", "_bench.cc")) else []
    done = subprocess.run(
        [CLANG_TIDY, "--quiet", *lenient, "-p", entry["directory"], str(path)],
        cwd=ROOT, check=False, capture_output=True, text=True,
    )
    if done.returncode != 0:
        return name, done.stdout or done.stderr or f"{CLANG_TIDY} exited {done.returncode}\n"
    verdict.touch()
    return name, ""


def clang_tidy(fix: bool) -> bool:
    """Over the compile commands of the native build."""
    if fix:
        return True
    database = ROOT / "build" / "native" / "compile_commands.json"
    ours = set(files(".cc"))
    entries = []
    for entry in json.loads(database.read_text(encoding="utf-8")):
        path = pathlib.Path(entry["directory"], entry["file"]).resolve()
        if path.is_relative_to(ROOT) and str(path.relative_to(ROOT)) in ours:
            entries.append(entry)
    if not entries:
        print(f"no file of the project is in {database.relative_to(ROOT)}")
        return False
    (CACHE / "tidy").mkdir(parents=True, exist_ok=True)
    version = subprocess.run([CLANG_TIDY, "--version"], check=True, capture_output=True).stdout
    checks = version + LENIENT.encode() + (ROOT / ".clang-tidy").read_bytes()
    # A file compiled into several targets is looked at once
    entries = list({entry["file"]: entry for entry in entries}.values())
    clean = True
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, found in pool.map(lambda entry: tidy_one(entry, checks), entries):
            if found:
                clean = False
                print(f"{name}:\n{found}", end="", flush=True)
    month = 30 * 24 * 3600
    for verdict in (CACHE / "tidy").iterdir():
        if time.time() - verdict.stat().st_mtime > month:
            verdict.unlink()
    return clean


def prettier(fix: bool) -> bool:
    return node("prettier/bin/prettier.cjs", "--write" if fix else "--check", "--log-level=warn", ".")


def eslint(fix: bool) -> bool:
    return node("eslint/bin/eslint.js", "--max-warnings=0", *(["--fix"] if fix else []), ".")


def types(fix: bool) -> bool:
    """The types of the package with its tests, and of the TypeScript beside it."""
    if fix:
        return True
    tsc = "typescript/bin/tsc"
    package = node(tsc, "-p", "packages/sluice/tsconfig.test.json")
    return node(tsc, "-p", "tsconfig.json") and package


def shellcheck(fix: bool) -> bool:
    return fix or run("shellcheck", *files(".sh"), ".ci/run")


def layers(fix: bool) -> bool:
    return fix or run(sys.executable, "tools/check_layers.py")


def words(fix: bool) -> bool:
    return fix or run(sys.executable, "tools/check_words.py")


LINTERS = [layers, words, shellcheck, clang_format, prettier, types, eslint, clang_tidy]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fix", action="store_true", help="rewrite files instead of checking them")
    parser.add_argument("linter", nargs="*", help="linters to run (default: all)")
    arguments = parser.parse_args()
    names = [linter.__name__ for linter in LINTERS]
    unknown = set(arguments.linter) - set(names)
    if unknown:
        parser.error(f"no linter called {', '.join(sorted(unknown))}; there are {', '.join(names)}")

    failed = passed = 0
    for linter in LINTERS:
        if arguments.linter and linter.__name__ not in arguments.linter:
            continue
        start = time.monotonic()
        ok = linter(arguments.fix)
        print(
            f"{linter.__name__:<13}{'ok' if ok else 'FAILED':<8}{time.monotonic() - start:6.1f} s",
            flush=True,
        )
        passed, failed = passed + ok, failed + (not ok)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
