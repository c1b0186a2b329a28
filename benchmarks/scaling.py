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
    first, *more = args.batch
    print(f"\nms per image, {args.threads} threads, each batch beside a batch of {first}\n\n| net | " + " | ".join(f"batch {n}" for n in args.batch) + " |\n" + "| --- " * (len(args.batch) + 1) + "|")
    for name in args.nets:
        cells = []
        for n in more:                                             # two at a time: all together need more memory than there is
            ms = measure({str(k): with_threads(name, k, args.threads) for k in (first, n)}, args.rounds, 1)
            cells.append((ms[str(first)] / first, ms[str(n)] / n))
        print(f"| {name} | {cells[0][0]:.2f} | " + " | ".join(f"{b:.2f} ({b / a:.2f} times)" for a, b in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
