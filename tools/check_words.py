#!/usr/bin/env python3
"""No file of the project names a place that exists on one machine only, or a package registry.

Such a path or host works for whoever wrote it and nobody else: registries are chosen by each
person's own configuration of apt, npm and pip. Prints each line at fault; exits 1 when there is one.
"""

import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Written with brackets so that this file does not hold what it looks for
PATTERNS = [
    # Absolute only: not the end of a longer or relative path, nor of a URL
    (re.compile(r"(?<![\w./~}>)-])/(?:[w]ork|[r]oot|[h]ome|[U]sers)/[\w.]"), "a path of one machine"),
    (re.compile(r"/tmp/[b]ash"), "a path of one machine"),
    (
        re.compile(
            r"[r]egistry\.(?:npmjs\.org|yarnpkg\.com)|\b[p]ypi\.org|[f]iles\.pythonhosted\.org"
            r"|\b[d]eb\.(?:debian\.org|nodesource\.com)|[s]napshot\.debian\.org"
            r"|[-\w]+\.pkg\.[d]ev\b"
        ),
        "a package registry's host",
    ),
]


def check(path: str, text: str) -> list[str]:
    """The wrong lines of one file, as `path:line: what is wrong`."""
    return [
        f"{path}:{number}: {what}: {match[0]}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern, what in PATTERNS
        for match in pattern.finditer(line)
    ]


def self_test() -> None:
    """The checker finds what it is there for, and itself is clean."""
    for bad in ("/ho" "me/me/x", "cd /wo" "rk/main", "'/ro" "ot/.x'", "https://py" "pi.org/simple"):
        assert check("a", bad), bad
    for good in ("../work/x", "https://example.com/home/x", "build/work/a", "the work/life"):
        assert not check("a", good), good


def main() -> int:
    self_test()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.splitlines()
    problems = []
    for path in listed:
        if (ROOT / path).is_file():
            data = (ROOT / path).read_bytes()
            if b"\0" not in data:
                problems += check(path, data.decode("utf-8", errors="replace"))
    print("\n".join(problems), end="\n" if problems else "")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
