#!/usr/bin/env python3
"""Runs every fuzz target of build/fuzz for a while, or for a number of executions.

Each starts from its kept corpus, fuzz/corpus/<name without _fuzz>. New inputs go to
build/fuzz/corpus/<name>, crashing ones to build/fuzz/findings/<name>-*. Prints how often each target was
executed; exits 1 when an input was found, or when a target was executed less often than asked.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "fuzz"
FINDINGS = BUILD / "findings"
# One process at most: its share of a target's executions is done by many, so that all cores have work to the end
EXECUTIONS_PER_PROCESS = 500_000


def targets() -> list[pathlib.Path]:
    return sorted(
        path
        for path in BUILD.rglob("*_fuzz")
        if path.is_file() and os.access(path, os.X_OK)
    )


def fuzz(target: pathlib.Path, limits: list[str]) -> tuple[int, bool]:
    """One process of libFuzzer: how many inputs it executed, and whether it ended without a finding."""
    name = target.name.removesuffix("_fuzz")
    kept = ROOT / "fuzz" / "corpus" / name
    fresh = BUILD / "corpus" / name
    fresh.mkdir(parents=True, exist_ok=True)
    command = [
        str(target),
        *limits,
        f"-artifact_prefix={FINDINGS}/{name}-",
        "-timeout=10",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
        str(fresh),
    ] + ([str(kept)] if kept.is_dir() else [])
    # What is freed is kept for a while; little of it, since every look for leaks goes through it
    sanitizer = ["quarantine_size_mb=8", *filter(None, [os.environ.get("ASAN_OPTIONS")])]
    environment = {**os.environ, "ASAN_OPTIONS": ":".join(sanitizer)}
    ended = subprocess.run(
        command, cwd=BUILD, env=environment, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, errors="replace",
    )  # fmt: skip
    executed = re.search(r"stat::number_of_executed_units: *(\d+)", ended.stdout)
    if ended.returncode != 0 or not executed:
        print(f"== {target.name}\n{ended.stdout[-6000:]}", flush=True)
        return 0, False
    return int(executed[1]), True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="time for each target")
    parser.add_argument("--runs", type=int, help="executions of each target, instead of a time")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--max-len", type=int, help="bytes of the longest input")
    parser.add_argument("name", nargs="*", help="targets to run (default: all)")
    arguments = parser.parse_args()

    chosen = [t for t in targets() if not arguments.name or t.name in arguments.name]
    if not chosen:
        print(f"fuzz: no such fuzz target under {BUILD.relative_to(ROOT)}", file=sys.stderr)
        return 1
    FINDINGS.mkdir(exist_ok=True)
    limits = [f"-max_total_time={arguments.seconds}"]
    if arguments.runs is not None:
        whole, rest = divmod(arguments.runs, EXECUTIONS_PER_PROCESS)
        limits = [f"-runs={EXECUTIONS_PER_PROCESS}"] * whole + [f"-runs={rest}"] * (rest > 0)

    length = [f"-max_len={arguments.max_len}"] if arguments.max_len else []

    passed = 0
    with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
        running = {t: [pool.submit(fuzz, t, [limit, *length]) for limit in limits] for t in chosen}
        for target, processes in running.items():
            ended = [process.result() for process in processes]
            executed = sum(count for count, _ in ended)
            found = sum(not good for _, good in ended)
            print(f"{target.name}: {executed} executions, {found} findings", flush=True)
            passed += found == 0 and executed >= (arguments.runs or 1)
    print(f"{passed} passed, {len(chosen) - passed} failed")
    if passed < len(chosen):
        print(f"fuzz: see {FINDINGS.relative_to(ROOT)}", file=sys.stderr)
    return 0 if passed == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
