#!/usr/bin/env python3
"""Neargate beside its peers, in one run: see README, "How fast". Exits 1 when a target is missed.

  main.py [oci|start|memory|pull]...     all four when none is named

ROUNDS (40), PULL_ROUNDS (3), PULL_MIB (1100), IDLE_SECONDS (60) and CACHE in the environment change how much is done.
"""

import os
import pathlib
import sys
import tempfile

import first_instruction
import memory
import oci_run
import pull
from peers import RELEASE, WITHOUT_UNIFIED
from report import Report


def number(name, default):
    return int(os.environ.get(name, default))


def main(names):
    cache = pathlib.Path(os.environ.get("CACHE", pathlib.Path.home() / ".cache/neargate")) / "bench"
    rounds = number("ROUNDS", 40)
    sections = {
        "oci": lambda report, directory: oci_run.measure(report, directory, rounds),
        "start": lambda report, directory: first_instruction.measure(report, directory, rounds),
        "memory": lambda report, directory: memory.measure(report, directory, number("IDLE_SECONDS", 60)),
        "pull": lambda report, directory: pull.measure(report, directory, cache, number("PULL_ROUNDS", 3), number("PULL_MIB", 1100)),
    }
    unknown = [name for name in names if name not in sections]
    if unknown:
        raise SystemExit(f"no such benchmark: {', '.join(unknown)} (there are {', '.join(sections)})")
    if not (RELEASE / "neargated").exists():
        raise SystemExit("no release build: run make bench")
    report = Report()
    for name in names or sections:
        # On a disk: a store in memory would make durability free.
        with tempfile.TemporaryDirectory(prefix="neargate-bench.", dir="/var/tmp") as directory:
            sections[name](report, pathlib.Path(directory))
    report.write()
    return 1 if report.missed else 0


if __name__ == "__main__":
    if os.environ.get("NEARGATE_BENCH_INSIDE") != "1":
        os.environ["NEARGATE_BENCH_INSIDE"] = "1"
        os.execvp("unshare", [*WITHOUT_UNIFIED, sys.executable, __file__, *sys.argv[1:]])
    sys.exit(main(sys.argv[1:]))
