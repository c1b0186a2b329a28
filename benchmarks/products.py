"""a b' for few rows of a, as InnerProduct computes it: brew's kernel beside oneDNN's and OpenBLAS's general products.

    pip install '.[bench]' && python benchmarks/products.py [--rounds 25] [--threads 2]

Each runs in a process of its own: the three have threads of their own, which would wait for each other's.
"""
from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable
from datetime import date
from functools import partial

import numpy as np
from train_step import measure, processor

import brew
from brew.kernels import cpu, onednn

SHAPES = ((1, 4096, 9216), (8, 4096, 25088), (32, 4096, 9216), (32, 1000, 4096), (16, 1000, 2048), (64, 500, 800), (128, 2048, 2048), (256, 2048, 2048), (32, 512, 128))


def products(which: str, rounds: int, threads: int) -> list[float]:
    """Milliseconds of each of SHAPES."""
    brew.set_threads(threads)
    rng = np.random.default_rng(0)
    run: Callable[..., None] = {"brew": cpu.gemm_nt, "oneDNN": partial(onednn.gemm, False, True), "OpenBLAS": partial(cpu.gemm, False, True)}[which]
    found = []
    for rows, cols, inner in SHAPES:
        a, b, c = rng.standard_normal((rows, inner), np.float32), rng.standard_normal((cols, inner), np.float32), np.empty((rows, cols), np.float32)
        found.append(measure({which: partial(run, rows, cols, inner, a, b, c, 0.0)}, rounds, 1)[which])
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    names = ("brew", "oneDNN", "OpenBLAS")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        ms = [pool.apply(products, (name, args.rounds, args.threads)) for name in names]
    print(f"{processor()}, {args.threads} threads, brew {brew.__version__}, {date.today()}; ms, medians of {args.rounds} rounds\n")
    print("| rows, columns, inner | " + " | ".join(names) + " |\n" + "| --- " * 4 + "|")
    for shape, row in zip(SHAPES, zip(*ms)):
        print(f"| {' x '.join(map(str, shape))} | " + " | ".join(f"{value:.2f}" for value in row) + " |")


if __name__ == "__main__":
    main()
