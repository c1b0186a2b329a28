"""The first run on a GPU: whether brew works there, repeats its bits and passes its tests; its speed beside torch.

    pip install '.[gpu,test]' torch && python benchmarks/gpu/first_run.py REPORT [--processes 4] [STEP|STEP:SECONDS ...]

Steps: device, kernels, repeat, tests, times and, only if named, sanitize (minutes). Each runs in its own process with a
time limit; one that fails or takes too long does not stop the others. REPORT/STEP.txt is the output of a step,
REPORT/report.md the results. Returns 1 if a step failed. `times` requires torch; `tests` uses pytest-xdist if it is
installed.
"""
from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter

from beside_torch import times
from card import device, kernels
from gpu_tests import sanitize, tests
from repeat import repeat

STEPS: dict[str, tuple[Callable[[argparse.Namespace], bool], float]] = {      # with their time limits in seconds
    "device": (device, 30), "kernels": (kernels, 60), "repeat": (repeat, 90), "tests": (tests, 180),
    "times": (times, 120), "sanitize": (sanitize, 480)}


def run_step(name: str, limit: float, report: Path) -> tuple[str, str]:
    """Run a step in its own process; returns (result, the last line it printed)."""
    with open(report / f"{name}.txt", "w") as log:
        process = subprocess.Popen([sys.executable, "-u", __file__, *sys.argv[1:], "--inside", name],
                                   stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            result = "passed" if process.wait(limit) == 0 else "FAILED"
        except subprocess.TimeoutExpired:
            result = f"STOPPED after {limit:.0f} s"
            process.send_signal(signal.SIGINT)             # pytest then prints the failures so far
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lines = (report / f"{name}.txt").read_text().strip().splitlines()
    return result, lines[-1] if lines else ""


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    option = parser.add_argument
    option("report", type=Path)
    option("steps", nargs="*", metavar="STEP")
    option("--processes", type=int, default=4, help="processes that run tests (default 4)")
    option("--tests", default="gpu", help="which tests, as for pytest -k (default gpu)")
    option("--folders", nargs="+", default=["layers", "engine", "solvers", "kernels"], help="parts of tests/")
    option("--sanitizers", nargs="+", default=["memcheck", "racecheck"], help="tools of compute-sanitizer")
    option("--sanitize-seconds", type=float, default=200, help="limit for each of these tools (default 200)")
    option("--iterations", type=int, default=200, help="of LeNet in repeat (default 200)")
    option("--no-digits", dest="digits", action="store_false", help="leave the digits out of repeat")
    option("--nets", nargs="+", default=["lenet:64", "resnet50:32"], help="nets and batches of times")
    option("--rounds", type=int, default=5, help="rounds of times (default 5)")
    option("--torch-steps", type=int, default=20, help="of torch in a round (default 20)")
    option("--size", type=int, default=4096, help="of the large matrices in kernels (default 4096)")
    option("--inside", choices=STEPS, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = options()
    if args.inside:
        return 0 if STEPS[args.inside][0](args) else 1
    args.report.mkdir(parents=True, exist_ok=True)
    rows, failed = ["| step | result | s | last line |", "| --- | --- | --- | --- |"], 0
    for text in args.steps or [name for name in STEPS if name != "sanitize"]:
        name, _, limit = text.partition(":")
        start = perf_counter()
        result, last = run_step(name, float(limit or STEPS[name][1]), args.report)
        failed += result != "passed"
        rows.append(f"| {name} | {result} | {perf_counter() - start:.1f} | {last} |")
        (args.report / "report.md").write_text("\n".join(rows) + "\n")
        print(rows[-1], flush=True)
        if name != "tests" or result != "passed":
            print((args.report / f"{name}.txt").read_text()[-3000:], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
