"""Steps of this checkout beside those of another (say, the commit before a change): is anything slower?

    git worktree add ../before COMMIT && <compile it>
    python benchmarks/before_after.py ../before [--rounds 30] [lenet ...]

Each side is a process of its own; rounds are interleaved, and which side begins alternates. A ratio is the median over
rounds of after / before; in brackets its 95 % confidence interval, from order statistics of the rounds.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[1]
MODELS = ("lenet", "resnet50")


def workloads(names: list[str]) -> dict[str, tuple[Callable[[], object], int, float]]:
    """name -> (what is timed, steps that it makes, its unit in seconds)."""
    from overhead import CHAINS, chain
    from train_step import NETS, brew_step

    import brew
    from brew.proto import pb
    found: dict[str, tuple[Callable[[], object], int, float]] = {}
    for kinds, length, steps in [(["InnerProduct"], 2, 200), *((kinds, 100, 10) for kinds in CHAINS)]:
        solver = brew.get_solver(pb.SolverParameter(
            net_param=chain(kinds, length), base_lr=1e-6, lr_policy="fixed", momentum=0.9, weight_decay=0.0005, random_seed=1))
        solver.net.blobs["data"].data[...] = 1
        if length == 2:                             # each step a call of its own: what entering the solver costs
            found["2 tiny layers, step(1)"] = lambda solver=solver: [solver.step(1) for _ in range(200)], steps, 1e-6
        else:
            found[f"{length} x {', '.join(kinds)}"] = lambda solver=solver, n=steps: solver.step(n), steps, 1e-6
    for name in names:
        shape, length = NETS[name]
        step = brew_step(name, shape)
        found[f"{name} {shape[0]}"] = lambda step=step, n=length: [step() for _ in range(n)], length, 1e-3
    return found


def work(names: list[str], threads: int) -> None:
    """A side: print the names of the workloads, then the time of a step of each whose name comes in."""
    import brew
    brew.set_threads(threads)
    made = workloads(names)
    for run, _, _ in made.values():
        run()
    print(*made, sep="\t", flush=True)
    for line in sys.stdin:
        run, steps, unit = made[line.rstrip("\n")]
        start = perf_counter()
        run()
        print((perf_counter() - start) / steps / unit, "µs" if unit < 1e-4 else "ms", flush=True)


def interval(values: list[float]) -> tuple[float, float]:
    """The 95 % confidence interval of the median: order statistics 0.98 sqrt(n) ranks to both sides of the middle."""
    values, reach = sorted(values), 0.98 * len(values) ** 0.5
    middle = (len(values) - 1) / 2
    return values[max(0, int(middle - reach))], values[min(len(values) - 1, int(middle + reach + 0.999))]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("before", help="the other checkout, compiled")
    parser.add_argument("nets", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="of the tiny nets and these, what has this in its name")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_intermixed_args()
    nets = args.nets or list(MODELS)
    if args.work:
        return work(nets, args.threads)
    sides = []
    for checkout in (Path(args.before), ROOT):
        environment = {**os.environ, "PYTHONPATH": str(checkout.resolve() / "src")}
        command = [sys.executable, __file__, str(args.before), *nets, "--threads", str(args.threads), "--work"]
        pipe = subprocess.PIPE
        sides.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment))
    names = [side.stdout.readline().rstrip("\n").split("\t") for side in sides][0]   # type: ignore[union-attr]

    def ask(side: subprocess.Popen[str], name: str) -> tuple[float, str]:
        print(name, file=side.stdin, flush=True)
        value, unit = side.stdout.readline().split()           # type: ignore[union-attr]
        return float(value), unit

    from train_step import processor
    print(f"{processor()}, {args.threads} threads, {date.today()}; a step, medians of {args.rounds} rounds\n")
    print("| net | before | after | after / before |\n| --- | --- | --- | --- |", flush=True)
    for name in [name for name in names if args.only in name]:
        times: tuple[list[float], list[float]] = [], []
        for i in range(args.rounds):
            for k in (0, 1) if i % 2 else (1, 0):
                value, unit = ask(sides[k], name)
                times[k].append(value)
        ratios = [after / before for before, after in zip(*times)]
        low, high = interval(ratios)
        print(f"| {name} | {median(times[0]):.4g} {unit} | {median(times[1]):.4g} {unit} | {median(ratios):.3f} "
              f"({low:.3f} to {high:.3f}) |", flush=True)
    for side in sides:
        side.stdin.close()                                     # type: ignore[union-attr]
        side.wait()


if __name__ == "__main__":
    main()
