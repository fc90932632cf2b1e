#!/usr/bin/env python3
"""Runs every test suite with its output shown; the last line is `N passed, M failed` over all.

A suite fails as a whole (one more failure in the count) when it ran no test, when its exit status and
its counts disagree, or when it takes too long. A skipped test is a failed one: what the tests need,
`make setup` installs.

  native    ctest, the optimised build
  asan      ctest, the build with AddressSanitizer and UndefinedBehaviorSanitizer
  node      *.test.ts, outside folders called `browser`
  chromium  *.test.ts in folders called `browser`: node:test driving headless Chromium
"""

import argparse
import dataclasses
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree

ROOT = pathlib.Path(__file__).resolve().parent.parent
OUT = ROOT / "build" / "test"
SUITE_LIMIT_S = 20 * 60
CASE_LIMIT_S = 5 * 60


@dataclasses.dataclass
class Result:
    passed: int = 0
    failed: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


def execute(command: list[str], env: dict[str, str] | None = None) -> int | None:
    """Runs a command, its output shown; its exit status, or None when it ran past the limit."""
    with subprocess.Popen(
        command, cwd=ROOT, env=env, stdin=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            return process.wait(SUITE_LIMIT_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            # Whatever the suite started and left behind ends with it
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def judge(result: Result, status: int | None, skipped: int) -> Result:
    """Adds what is wrong with the suite as a whole."""
    if skipped:
        result.failed += skipped
        result.problems.append(f"{skipped} tests were skipped, which counts as failed")
    if status is None:
        result.problems.append(f"it ran past {SUITE_LIMIT_S} s and was ended")
    elif result.passed + result.failed == 0:
        result.problems.append("it ran no test")
    elif status != 0 and result.failed == 0:
        result.problems.append(f"its exit status is {status}, yet it reports no failure")
    elif status == 0 and result.failed > skipped:
        result.problems.append(f"its exit status is 0, yet it reports {result.failed} failures")
    if result.problems and result.failed == 0:
        result.failed = 1
    return result


def read_junit(report: pathlib.Path) -> tuple[Result, int]:
    """The counts of ctest's report, taken from its test cases and held against its totals."""
    result, skipped = Result(), 0
    if not report.is_file():
        result.problems.append("ctest wrote no report")
        return result, skipped
    suite = xml.etree.ElementTree.parse(report).getroot()
    for case in suite.iter("testcase"):
        # "disabled" is what the project disabled, "notrun" a skip or a program that is missing
        if case.get("status") == "run":
            result.passed += 1
        elif case.get("status") == "fail":
            result.failed += 1
        else:
            skipped += 1
    if int(suite.get("tests", -1)) != result.passed + result.failed + skipped:
        result.problems.append(f"ctest's report names {suite.get('tests')} tests and lists others")
    return result, skipped


def ctest(preset: str) -> Result:
    report = OUT / f"{preset}.xml"
    report.unlink(missing_ok=True)
    status = execute([
        "ctest", "--preset", preset, "--output-on-failure", "--no-tests=error", "--timeout",
        str(CASE_LIMIT_S), "-j", str(os.cpu_count()), "--output-junit", str(report),
    ])  # fmt: skip
    result, skipped = read_junit(report)
    return judge(result, status, skipped)


def test_files(browser: bool) -> list[str]:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()
    return sorted(
        path
        for path in set(listed)
        if re.search(r"\.test\.(ts|mts|mjs)$", path)
        and (ROOT / path).is_file()
        and ("browser" in pathlib.PurePath(path).parts) == browser
    )


def read_tap(report: pathlib.Path) -> tuple[Result, int]:
    """The counts of node:test's closing lines."""
    result = Result()
    text = report.read_text(encoding="utf-8", errors="replace") if report.is_file() else ""
    counts = {
        name: int(count)
        for name, count in re.findall(
            r"^# (tests|pass|fail|cancelled|skipped|todo) (\d+)$", text, re.MULTILINE
        )
    }
    if len(counts) != 6:
        result.problems.append("node's report has no closing counts")
        return result, 0
    result.passed = counts["pass"]
    result.failed = counts["fail"] + counts["cancelled"]
    skipped = counts["skipped"] + counts["todo"]
    if counts["tests"] != result.passed + result.failed + skipped:
        result.problems.append(f"node's counts do not add up: {counts}")
    # A file that holds no test is reported as one passed test of its own name
    empty = re.findall(r"^ok \d+ - (\S+\.test\.m?[tj]s)$", text, re.MULTILINE)
    if empty:
        result.passed -= len(empty)
        result.problems.append(f"no test in {', '.join(empty)}")
    return result, skipped


def node_tests(name: str, browser: bool) -> Result:
    report = OUT / f"{name}.tap"
    report.unlink(missing_ok=True)
    paths = test_files(browser)
    if not paths:
        return judge(Result(), 0, 0)
    # One file at a time: several measure memory or time
    status = execute([
        "node", "--import", "tsx", "--expose-gc", "--test", "--test-concurrency=1",
        f"--test-timeout={CASE_LIMIT_S * 1000}",
        "--test-reporter=spec", "--test-reporter-destination=stdout",
        "--test-reporter=tap", f"--test-reporter-destination={report}", *paths,
    ])  # fmt: skip
    result, skipped = read_tap(report)
    return judge(result, status, skipped)


SUITES = {
    "native": lambda: ctest("native"),
    "asan": lambda: ctest("asan"),
    "node": lambda: node_tests("node", browser=False),
    "chromium": lambda: node_tests("chromium", browser=True),
}


def self_test() -> None:
    """The judgement that everything rests on."""
    assert judge(Result(3, 0), 0, 0) == Result(3, 0)
    assert judge(Result(3, 1), 1, 0) == Result(3, 1)
    assert judge(Result(0, 0), 0, 0).failed == 1
    assert judge(Result(3, 0), 1, 0).failed == 1
    assert judge(Result(3, 1), 0, 0).problems
    assert judge(Result(3, 0), 0, 1).failed == 1
    assert judge(Result(3, 0), None, 0).failed == 1


def main() -> int:
    self_test()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("suite", nargs="*", help="suites to run (default: all)")
    arguments = parser.parse_args()
    unknown = set(arguments.suite) - set(SUITES)
    if unknown:
        parser.error(f"no suite called {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}")
    OUT.mkdir(parents=True, exist_ok=True)

    rows = []
    for name, suite in SUITES.items():
        if not arguments.suite or name in arguments.suite:
            print(f"== {name}", flush=True)
            start = time.monotonic()
            rows.append((name, suite(), time.monotonic() - start))
    print()
    for name, result, seconds in rows:
        print(f"{name:<10}{result.passed:>6} passed{result.failed:>6} failed{seconds:>8.1f} s")
        for problem in result.problems:
            print(f"{'':<10}{name}: {problem}")
    passed = sum(result.passed for _, result, _ in rows)
    failed = sum(result.failed for _, result, _ in rows)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or any(result.problems for _, result, _ in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
