"""How brew's train step scales: with threads, and with the batch.

    python benchmarks/scaling.py [--rounds 7] [--threads 2] [--batch 8 16 32 64] [resnet50 vgg16 caffenet]
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import date

from train_step import NETS, brew_step, measure, processor

import brew


def with_threads(name: str, batch: int, threads: int) -> Callable[[], None]:
    """A train step on so many threads, whatever others in between run on."""
    brew.set_threads(threads)
    step = brew_step(name, (batch, *NETS[name][0][1:]))

    def run() -> None:
        brew.set_threads(threads)
        step()
    return run


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("nets", nargs="*", default=["resnet50", "vgg16", "caffenet"])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, nargs="*", default=[8, 16, 32, 64])
    args = parser.parse_args()
    print(f"{processor()}, brew {brew.__version__}, {date.today()}; train step, medians of {args.rounds} rounds\n")
    print(f"| net, batch | 1 thread, ms | {args.threads} threads, ms | 1 / {args.threads} |\n" + "| --- " * 4 + "|")
    for name in args.nets:
        batch = NETS[name][0][0]
        ms = measure({str(n): with_threads(name, batch, n) for n in (1, args.threads)}, args.rounds, 1)
        print(f"| {name} {batch} | {ms['1']:.1f} | {ms[str(args.threads)]:.1f} | {ms['1'] / ms[str(args.threads)]:.2f} |", flush=True)
    print(f"\nms per image, {args.threads} threads\n\n| net | " + " | ".join(f"batch {n}" for n in args.batch) + " | most / least |\n" + "| --- " * (len(args.batch) + 2) + "|")
    for name in args.nets:
        ms = measure({str(n): with_threads(name, n, args.threads) for n in args.batch}, args.rounds, 1)
        each = [ms[str(n)] / n for n in args.batch]
        print(f"| {name} | " + " | ".join(f"{v:.2f}" for v in each) + f" | {max(each) / min(each):.2f} |", flush=True)


if __name__ == "__main__":
    main()
