"""A training step of a net with very many outputs: LSHInnerProduct beside a dense output layer in PyTorch.

    python benchmarks/sublinear.py [--outputs 670091] [--rounds 5] [--threads 1] [--tables 50] [--samples 4096] [--without-torch]

Rounds are interleaved, figures are medians, of CPU time and of wall time. Inputs are random: 75 of 135,909 features and 5
labels for each of 128 examples; hidden layer 128, Adam. The peer has the same net: a sparse first layer (EmbeddingBag with
SparseAdam), a dense output layer with fused Adam. Rehashes are left out of the steps and shown beside them.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from statistics import median
from time import perf_counter, process_time

import numpy as np
from train_step import processor

import brew
from brew.proto import parse, pb

BATCH, NONZEROS, FEATURES, HIDDEN, LABELS = 128, 75, 135909, 128, 5
NET = """
    layer {{ name: "in" type: "Input" top: "value" top: "index" top: "label"
            input_param {{ shape {{ dim: 128 dim: 75 }} shape {{ dim: 128 dim: 75 }} shape {{ dim: 128 dim: 5 }} }} }}
    layer {{ name: "fc1" type: "InnerProduct" bottom: "value" bottom: "index" top: "fc1"
            inner_product_param {{ num_output: 128 input_dim: 135909 weight_filler {{ type: "xavier" }} }} }}
    layer {{ name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }}
    layer {{ name: "out" type: "LSHInnerProduct" bottom: "fc1" bottom: "label" top: "score" top: "unit"
            inner_product_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" std: 0.01 }} }}
            lsh_param {{ hash: {kind} num_hashes: {hashes} num_tables: {tables} num_samples: {samples} active_set: {sets}
                        rehash_interval: 1000000 }} }}
    layer {{ name: "loss" type: "SampledSoftmaxWithLoss" bottom: "score" bottom: "unit" bottom: "label" top: "loss" }}"""


def batches(outputs: int) -> Callable[[], tuple[np.ndarray, ...]]:
    rng = np.random.default_rng(0)
    return lambda: (rng.random((BATCH, NONZEROS), np.float32), rng.integers(0, FEATURES, (BATCH, NONZEROS)),
                    rng.integers(0, outputs, (BATCH, LABELS)))


def brew_side(args: argparse.Namespace, kind: str, sets: str) -> tuple[Callable[[], None], brew.Net]:
    text = NET.format(outputs=args.outputs, kind=kind, hashes=9 if kind == "SIMHASH" else 6, tables=args.tables,
                      samples=args.samples, sets=sets)
    solver = brew.get_solver(pb.SolverParameter(net_param=parse(text, pb.NetParameter()), type="Adam", base_lr=1e-4,
                                                momentum=0.9, lr_policy="fixed", random_seed=1))
    blobs, draw = solver.net.blobs, batches(args.outputs)

    def step() -> None:
        for name, values in zip(("value", "index", "label"), draw()):
            blobs[name].data[...] = values
        solver.step(1)
    return step, solver.net


def torch_side(args: argparse.Namespace) -> Callable[[], None]:
    import torch
    first = torch.nn.EmbeddingBag(FEATURES, HIDDEN, mode="sum", sparse=True)
    out = torch.nn.Linear(HIDDEN, args.outputs)
    sparse, dense = torch.optim.SparseAdam(first.parameters(), 1e-4), torch.optim.Adam(out.parameters(), 1e-4, fused=True)
    draw = batches(args.outputs)

    def step() -> None:
        value, index, label = (torch.from_numpy(a) for a in draw())
        sparse.zero_grad()
        dense.zero_grad()
        scores = torch.log_softmax(out(torch.relu(first(index, per_sample_weights=value))), 1)
        (-scores.gather(1, label).mean()).backward()
        sparse.step()
        dense.step()
    return step


def clock(step: Callable[[], None]) -> tuple[float, float]:
    """Milliseconds of CPU time and of wall time."""
    cpu, wall = process_time(), perf_counter()
    step()
    return 1e3 * (process_time() - cpu), 1e3 * (perf_counter() - wall)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("outputs", 670091), ("rounds", 5), ("threads", 1), ("tables", 50), ("samples", 4096)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--without-torch", action="store_true")
    args = parser.parse_args()
    brew.set_threads(args.threads)
    rows = [(kind, sets) for sets in ("EXAMPLE", "BATCH") for kind in ("SIMHASH", "DWTA")]
    sides, nets = {}, {}
    for kind, sets in rows:
        name = f"{kind}, a set for {'each example' if sets == 'EXAMPLE' else 'the batch'}"
        sides[name], nets[name] = brew_side(args, kind, sets)
    if not args.without_torch:
        import torch
        torch.set_num_threads(args.threads)
        sides["torch, dense output"] = torch_side(args)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for number in range(args.rounds + 1):
        for name, step in sides.items():
            one = clock(step)
            times[name] += [one] * (number > 0)                # the first run builds tables, and allocates
    print(f"{processor()}, {args.threads} thread(s), {args.outputs:,} outputs, {args.tables} tables, {args.samples} samples")
    print("| step | CPU ms | wall ms | rehash CPU ms | tables MB |\n| --- | --- | --- | --- | --- |")
    for name, found in times.items():
        cpu, wall = (median(values) for values in zip(*found))
        sets = nets[name].nodes[-2].sets if name in nets else None
        extra = " | "
        if sets:
            weights = nets[name].nodes[-2].blobs[0].value.read()
            rehash = median(clock(lambda: sets.tables.build(weights))[0] for _ in range(3))
            extra = f"{rehash:.0f} | {sets.tables.bytes / 1e6:.0f}"
        print(f"| {name} | {cpu:.1f} | {wall:.1f} | {extra} |")


if __name__ == "__main__":
    main()
