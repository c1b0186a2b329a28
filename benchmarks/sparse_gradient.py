"""A step of an Embed of 200,000 x 128 with row-sparse gradients beside one with dense ones, and beside PyTorch's.

    python benchmarks/sparse_gradient.py [--rounds 15] [--threads 2] [--rows 200000] [--without-torch]

Rounds are interleaved, figures are medians. Memory: the arrays of parameters, gradients and histories.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import date
from typing import Any

import numpy as np
from train_step import measure, processor

import brew
from brew.proto import parse, pb

BATCH, WORDS, COLUMNS = 64, 50, 128
NET = """
    layer { name: "in" type: "Input" top: "index" top: "target" input_param { shape { dim: %d dim: %d } shape { dim: %d dim: %d dim: %d } } }
    layer { name: "embed" type: "Embed" bottom: "index" top: "v"
            embed_param { %s input_dim: %d num_output: %d bias_term: false weight_filler { type: "uniform" min: -0.1 max: 0.1 } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "v" bottom: "target" top: "loss" }"""


def batch(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Words by Zipf's law, as texts have them; and targets."""
    rng = np.random.default_rng(0)
    index = np.minimum(rng.zipf(1.3, (BATCH, WORDS)) - 1, rows - 1)
    return index, rng.standard_normal((BATCH, WORDS, COLUMNS)).astype(np.float32)


def brew_side(kind: str, sparse: bool, rows: int) -> tuple[Callable[[], object], int]:
    shape = BATCH, WORDS, BATCH, WORDS, COLUMNS, "sparse_gradient: true" if sparse else "", rows, COLUMNS
    solver = brew.get_solver(pb.SolverParameter(net_param=parse(NET % shape, pb.NetParameter()), type=kind,
                                                base_lr=0.01,
                                                momentum=0.9, lr_policy="fixed", random_seed=1))
    index, target = batch(rows)
    solver.net.blobs["index"].data[...], solver.net.blobs["target"].data[...] = index, target
    arrays = [solver.arena.data, solver.arena.diff, *solver.history]
    return lambda: solver.step(1), sum(int(a.nbytes) for a in arrays)


def torch_side(kind: str, sparse: bool, rows: int) -> tuple[Callable[[], object], int]:
    import torch
    embed = torch.nn.Embedding(rows, COLUMNS, sparse=sparse)
    made: dict[tuple[str, bool], Any] = {
        ("SGD", True): lambda p: torch.optim.SGD(p, 0.01),
        ("SGD", False): lambda p: torch.optim.SGD(p, 0.01, momentum=0.9),
        ("Adam", True): lambda p: torch.optim.SparseAdam(p, 0.01),
        ("Adam", False): lambda p: torch.optim.Adam(p, 0.01, fused=True)}
    optimizer = made[kind, sparse](list(embed.parameters()))
    index, target = (torch.from_numpy(np.ascontiguousarray(a)) for a in batch(rows))

    def step() -> None:
        optimizer.zero_grad()
        (((embed(index) - target) ** 2).sum() / (2 * BATCH)).backward()
        optimizer.step()
    # torch's SGD has no momentum for sparse gradients
    histories = 2 if kind == "Adam" else 0 if sparse else 1
    return step, 4 * rows * COLUMNS * (1 + histories + (not sparse))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--without-torch", action="store_true")
    args = parser.parse_args()
    brew.set_threads(args.threads)
    sides: dict[str, Callable[[], object]] = {}
    memory: dict[str, int] = {}
    makers = {"brew": brew_side} if args.without_torch else {"brew": brew_side, "torch": torch_side}
    if not args.without_torch:
        import torch
        torch.set_num_threads(args.threads)
    for kind in ("SGD", "Adam"):
        for name, make in makers.items():
            for sparse in (True, False):
                key = f"{name} {kind}, {'row-sparse' if sparse else 'dense'}"
                sides[key], memory[key] = make(kind, sparse, args.rows)
    print(f"{processor()}, {args.threads} threads, {date.today()}; Embed {args.rows:,} x {COLUMNS}, {BATCH} x {WORDS} words, "
          f"{len(np.unique(batch(args.rows)[0]))} of them different; medians of {args.rounds} rounds\n")
    print("| | step, ms | parameters, gradients and histories, MB |\n| --- | --- | --- |")
    for key, ms in measure(sides, args.rounds, 1).items():
        print(f"| {key} | {ms:.2f} | {memory[key] / 1e6:.0f} |")


if __name__ == "__main__":
    main()
