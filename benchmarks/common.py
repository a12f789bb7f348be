# SPDX-License-Identifier: Apache-2.0
"""What every benchmark shares: clocks, the unit of CPU time, and the record of where it ran.

CPU figures are stated in units of one single-threaded 1024 x 1024 x 1024 float32 ``torch.mm`` in
the same process ("sgemm unit"), so that they can be compared between machines, and are minima over
repeats, so that what else the machine does shows as little as possible. GPU figures are medians of
CUDA events, with the peers on the same inputs in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "benchmarks" / "results"
DATA = Path(os.environ.get("FIELDLINE_DATA", REPOSITORY.parent / "shared" / "data")).resolve()


class Seconds(NamedTuple):
    """The least of several runs, by each clock."""

    cpu: float  # of all threads of this process
    wall: float


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Runs the block with that many CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clock(function: Callable[[], object]) -> Seconds:
    """Times one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    function()
    return Seconds(time.process_time() - cpu, time.perf_counter() - wall)


def least(*times: Seconds) -> Seconds:
    """The minimum by each clock."""
    return Seconds(min(t.cpu for t in times), min(t.wall for t in times))


def best_of(function: Callable[[], object], repeats: int) -> Seconds:
    """The least of several calls, after one that is not counted."""
    function()
    return least(*(clock(function) for _ in range(repeats)))


def sgemm_unit(repeats: int = 7) -> float:
    """CPU seconds of a 1024 x 1024 x 1024 float32 matrix product on one thread."""
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(1024, 1024, generator=generator) for _ in range(2))
    with threads(1):
        return best_of(lambda: torch.mm(a, b), repeats).cpu


def cuda_milliseconds(function: Callable[[], object], repeats: int = 20, warm: int = 5) -> float:
    """Median time of a call on the GPU, by CUDA events."""
    for _ in range(warm):
        function()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        function()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def machine() -> dict[str, Any]:
    """What this runs on."""
    found: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name(0)
    return found


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, torch, fieldline, and of the named packages that are installed."""
    found = {"python": platform.python_version()}
    for package in ("torch", "fieldline", *packages):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    found["torch"] = torch.__version__
    return found


def commit() -> str:
    """The commit of the repository, with a plus if tracked files differ from it."""
    try:
        head = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head + ("+" if changed else "")


def _git(*arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=True
    )
    return run.stdout.strip()


def command() -> str:
    """How to run this again, from the repository's root."""
    script = Path(sys.argv[0]).resolve()
    name = script.relative_to(REPOSITORY) if script.is_relative_to(REPOSITORY) else script.name
    return shlex.join(["python", str(name), *sys.argv[1:]])


def arguments(description: str, sections: tuple[str, ...]) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "sections", nargs="*", metavar="SECTION", help=f"which of: {', '.join(sections)} (all)"
    )
    parser.add_argument("--json", action="store_true", help="print the record as JSON, no text")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each measurement")
    parser.add_argument(
        "--output", type=Path, default=RESULTS, help="folder of the record (benchmarks/results)"
    )
    return parser


def record(name: str, results: dict[str, Any], folder: Path, peers: tuple[str, ...] = ()) -> str:
    """Writes ``NAME.json``: the results, and all that is needed to judge and repeat them."""
    whole = {
        "benchmark": name,
        "command": command(),
        "commit": commit(),
        "machine": machine(),
        "versions": versions(*peers),
        "results": results,
    }
    text = json.dumps(whole, indent=2) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(text, encoding="utf-8")
    return text
