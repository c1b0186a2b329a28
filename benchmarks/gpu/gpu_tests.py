"""Steps of first_run.py: the tests that run on a GPU, in several processes, and the same under compute-sanitizer.

Also a plugin for pytest in these processes.
"""
from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
BROKEN = re.compile(r"illegal (memory access|instruction)|misaligned address|launch failure|device-side assert", re.I)
FOUND = re.compile(r"^=+ (Invalid|Misaligned|Error: Race|Warning: Race|Uninitialized|Program hit|Barrier)", re.M)


def tests(args: argparse.Namespace) -> bool:
    """The tests that run on a GPU."""
    import pytest
    with_this_plugin()
    os.environ["FIRST_RUN_REPORT"] = str(args.report.resolve())
    spread = []
    if importlib.util.find_spec("xdist"):
        spread = ["-n", str(args.processes), "--dist", "worksteal", "-p", "gpu_tests"]
    return pytest.main([*selection(args), "--tb=short", "--durations=10", *spread]) == 0


def selection(args: argparse.Namespace) -> list[str]:
    """pytest's arguments for the chosen tests."""
    folders = [str(ROOT / "tests" / name) for name in args.folders]
    return [*folders, "--rootdir", str(ROOT), "-k", args.tests, "-q", "--no-header", "-p", "no:cacheprovider"]


def with_this_plugin() -> None:
    """Let processes of pytest find this file as a plugin, and use one thread each."""
    here = str(Path(__file__).parent)
    sys.path.insert(0, here)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, *filter(None, [os.environ.get("PYTHONPATH")])])
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_configure() -> None:
    """Allocate each array by itself for compute-sanitizer: inside CuPy's pool it cannot see the ends of arrays."""
    if "FIRST_RUN_NO_POOL" in os.environ:
        import cupy
        cupy.cuda.set_allocator(None)


def pytest_runtest_makereport(item: Any, call: Any) -> None:
    """A fault leaves a process without its GPU: note the test and end the process, so that xdist starts another."""
    if call.excinfo and "FIRST_RUN_REPORT" in os.environ and BROKEN.search(str(call.excinfo.value)):
        with open(Path(os.environ["FIRST_RUN_REPORT"]) / "faults.txt", "a") as file:
            file.write(f"{item.nodeid}\n{call.excinfo.getrepr(style='short')}\n\n")
        os._exit(1)


def sanitize(args: argparse.Namespace) -> bool:
    """The same tests under compute-sanitizer: accesses beyond arrays (memcheck), races in shared memory (racecheck)."""
    from checks import check
    places = [*Path("/usr/local").glob("cuda*/bin/compute-sanitizer"), *Path("/opt").glob("*/*/compute-sanitizer")]
    sanitizer = next(filter(None, [shutil.which("compute-sanitizer"), *map(str, places)]), None)
    if not sanitizer:
        return check("there is a compute-sanitizer", False)
    with_this_plugin()
    command = [sys.executable, "-m", "pytest"]
    listed = subprocess.run([*command, *selection(args), "--collect-only"], capture_output=True, text=True, cwd=ROOT)
    names = [line for line in listed.stdout.splitlines() if "::" in line]
    if not check("there are tests", bool(names), str(len(names))):
        print(listed.stdout[-2000:])
        return False
    os.environ["FIRST_RUN_NO_POOL"] = "1"
    options = ["--rootdir", str(ROOT), "-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-p", "gpu_tests"]
    works = True
    for tool in args.sanitizers:
        with tempfile.TemporaryDirectory(prefix=tool) as name:
            folder, start, processes = Path(name), perf_counter(), []
            for i in range(min(args.processes, len(names))):
                (folder / f"{i}.ids").write_text("\n".join(names[i::args.processes]))
                report = ["--report-api-errors", "no", "--log-file", str(folder / f"{i}.report")]
                with open(folder / f"{i}.log", "w") as log:
                    checked = [sanitizer, "--tool", tool, *report, *command, f"@{folder / f'{i}.ids'}", *options]
                    processes.append(subprocess.Popen(checked, stdout=log, stderr=log, cwd=ROOT))
            in_time = wait(processes, args.sanitize_seconds)
            logs = [(folder / f"{i}.log").read_text() for i in range(len(processes))]
            reports = [path.read_text() for path in folder.glob("*.report")]
        for text in filter(FOUND.search, reports):
            print(text[:3000])
        failures = [line for log in logs for line in log.splitlines() if line.startswith(("FAILED", "ERROR", "E  "))]
        print("\n".join(failures))
        ends = [log.strip().rpartition("\n")[2] for log in logs]
        passed = all(" passed" in end and " failed" not in end for end in ends)
        works &= check(f"{tool}: all tests ran and passed", in_time and passed, "; ".join(ends))
        works &= check(f"{tool} finds nothing", len(reports) == len(processes) and not any(map(FOUND.search, reports)),
                       f"{perf_counter() - start:.0f} s")
    return works


def wait(processes: list[subprocess.Popen[bytes]], seconds: float) -> bool:
    """Wait for all, and kill those that take longer; returns whether none did."""
    end, in_time = perf_counter() + seconds, True
    for process in processes:
        try:
            process.wait(max(end - perf_counter(), 0.1))
        except subprocess.TimeoutExpired:
            in_time = False
            process.kill()
            process.wait()
    return in_time
