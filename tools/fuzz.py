#!/usr/bin/env python3
"""Runs every fuzz target of build/fuzz for a while.

Each starts from its kept corpus, fuzz/corpus/<name without _fuzz>. New inputs go to
build/fuzz/corpus/<name>, crashing ones to build/fuzz/findings/<name>-*. Exits 1 when one was found.
"""

import argparse
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "fuzz"


def targets() -> list[pathlib.Path]:
    return sorted(
        path
        for path in BUILD.rglob("*_fuzz")
        if path.is_file() and os.access(path, os.X_OK)
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="time for each target")
    parser.add_argument("name", nargs="*", help="targets to run (default: all)")
    arguments = parser.parse_args()

    chosen = [t for t in targets() if not arguments.name or t.name in arguments.name]
    if not chosen:
        print(f"fuzz: no such fuzz target under {BUILD.relative_to(ROOT)}", file=sys.stderr)
        return 1
    findings = BUILD / "findings"
    findings.mkdir(exist_ok=True)
    failed = []
    for target in chosen:
        name = target.name.removesuffix("_fuzz")
        kept = ROOT / "fuzz" / "corpus" / name
        fresh = BUILD / "corpus" / name
        fresh.mkdir(parents=True, exist_ok=True)
        print(f"== {target.name}: {arguments.seconds} s", flush=True)
        command = [
            str(target),
            f"-max_total_time={arguments.seconds}",
            f"-artifact_prefix={findings}/{name}-",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-print_final_stats=1",
            str(fresh),
        ] + ([str(kept)] if kept.is_dir() else [])
        if subprocess.run(command, cwd=BUILD, check=False).returncode != 0:
            failed.append(target.name)
    print(f"{len(chosen) - len(failed)} passed, {len(failed)} failed")
    for name in failed:
        print(f"fuzz: {name} found an input; see {findings.relative_to(ROOT)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
