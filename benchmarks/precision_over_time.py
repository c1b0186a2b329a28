"""P@1 over training time of a net with very many outputs: dense and sampled output layers, in brew and in PyTorch.

    brew data xc-synthetic DATA -labels 131072 -features 131072 -examples 500000 -test 20000
    python benchmarks/precision_over_time.py DATA --outputs 131072 --features 131072 [--seconds 120] [--seeds 3]
        [--samples 1024] [--only NAME ...] [--lines curves.jsonl] [--plot curves.svg]

Every side has the same net: a sparse first layer, hidden layer 128, ReLU, the output layer; softmax loss with a target of 1/n for
each of n labels; Adam, batch 128; the same batches in the same order, read by SparseData. It trains until it has used so
many seconds of CPU time on one thread (with rehashes and with reading, without the tests between), and is tested, over all
outputs, at times that double. Tests see the first 4,096 test examples. A line of JSON a test goes into --lines, and runs
whose last line stands there are not run again; the table and the plot are made of that file.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from time import perf_counter, process_time
from typing import Any

import numpy as np
from train_step import processor

import brew
from brew.proto import parse, pb

BATCH, HIDDEN, TESTED = 128, 128, 4096
DATA = """
    layer {{ name: "data" type: "SparseData" top: "value" top: "index" top: "label"
            sparse_data_param {{ source: "{data}_train_lmdb" batch_size: 128 shuffle: true }} include {{ phase: TRAIN }} }}
    layer {{ name: "data" type: "SparseData" top: "value" top: "index" top: "label"
            sparse_data_param {{ source: "{data}_test_lmdb" batch_size: 128 }} include {{ phase: TEST }} }}"""
NET = DATA + """
    layer {{ name: "fc1" type: "InnerProduct" bottom: "value" bottom: "index" top: "fc1"
            inner_product_param {{ num_output: 128 input_dim: {features} weight_filler {{ type: "gaussian" std: {std} }} }} }}
    layer {{ name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }}
    {output}
    layer {{ name: "precision" type: "PrecisionAtK" bottom: "score" bottom: "unit" bottom: "label" top: "p1" include {{ phase: TEST }} }}"""
LSH = """
    layer {{ name: "out" type: "LSHInnerProduct" bottom: "fc1" bottom: "label" top: "score" top: "unit"
            inner_product_param {{ num_output: {outputs} }}
            lsh_param {{ {lsh} num_samples: {samples} test_top_k: 1 }} }}
    layer {{ name: "loss" type: "SampledSoftmaxWithLoss" bottom: "score" bottom: "unit" bottom: "label" top: "loss"
            include {{ phase: TRAIN }} }}"""
DENSE = """
    layer {{ name: "out" type: "InnerProduct" bottom: "fc1" top: "score"
            inner_product_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" std: 0.01 }} }} }}
    layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" loss_param {{ label_lists: true }}
            include {{ phase: TRAIN }} }}"""
SIMHASH, DWTA = "hash: SIMHASH num_hashes: {bits} num_tables: {tables}", "hash: DWTA num_hashes: {winners} num_tables: {tables}"
SIDES = {
    "torch dense": "", "brew dense": "dense",
    "SimHash": f"{SIMHASH} active_set: BATCH", "DWTA": f"{DWTA} active_set: BATCH",
    "uniform": "sampling: UNIFORM active_set: BATCH",
    "SimHash, log q": f"{SIMHASH} active_set: BATCH log_q: true", "DWTA, log q": f"{DWTA} active_set: BATCH log_q: true",
    "uniform, log q": "sampling: UNIFORM active_set: BATCH log_q: true",
    "SimHash, a set each": SIMHASH, "DWTA, a set each": DWTA, "uniform, a set each": "sampling: UNIFORM",
}
Step = Callable[[], None]


def net_param(text: str, args: argparse.Namespace) -> pb.NetParameter:
    net: pb.NetParameter = parse(text.format(data=Path(args.data) / "xc_synthetic", features=args.features, outputs=args.outputs,
                                             std=args.std, samples=args.samples), pb.NetParameter())
    return net


def brew_side(args: argparse.Namespace, spec: str, seed: int) -> tuple[Step, Callable[[], float]]:
    output = DENSE if spec == "dense" else LSH.replace("{lsh}", spec.format(bits=args.bits, winners=args.winners, tables=args.tables))
    text = NET.replace("{output}", output)
    if spec == "dense":
        text = text.replace('bottom: "score" bottom: "unit" bottom: "label" top: "p1"', 'bottom: "score" bottom: "label" top: "p1"')
    solver = brew.get_solver(pb.SolverParameter(
        net_param=net_param(text, args), type="Adam", base_lr=args.lr, momentum=0.9, momentum2=0.999, lr_policy="fixed",
        random_seed=seed, test_iter=[TESTED // BATCH], test_interval=10**9, test_initialization=False))

    def precision() -> float:
        test = solver.test_nets[0]
        test.share_with(solver.net)
        found = 0.0
        for _ in range(TESTED // BATCH):
            found += float(test.forward()["p1"])
        return found / (TESTED // BATCH)
    return lambda: solver.step(1), precision


def torch_side(args: argparse.Namespace, seed: int) -> tuple[Step, Callable[[], float]]:
    import torch
    torch.manual_seed(seed)
    first, bias = torch.nn.EmbeddingBag(args.features, HIDDEN, mode="sum", sparse=True), torch.nn.Parameter(torch.zeros(HIDDEN))
    out = torch.nn.Linear(HIDDEN, args.outputs)
    torch.nn.init.normal_(first.weight, std=args.std)
    torch.nn.init.normal_(out.weight, std=0.01)
    torch.nn.init.zeros_(out.bias)
    sparse = torch.optim.SparseAdam(first.parameters(), args.lr)
    dense = torch.optim.Adam([bias, *out.parameters()], args.lr, fused=True)
    reader = {phase: brew.Net(net_param(DATA, args), phase, seed=seed) for phase in (brew.TRAIN, brew.TEST)}

    def scores(phase: int) -> tuple[Any, Any]:
        reader[phase].forward()
        value, index, label = (torch.from_numpy(np.array(reader[phase].blobs[name].data)) for name in ("value", "index", "label"))
        hidden = first(index.clamp(min=0).long(), per_sample_weights=value)            # padding has the value 0
        return out(torch.relu(hidden + bias)), label.long()

    def step() -> None:
        sparse.zero_grad()
        dense.zero_grad()
        y, label = scores(brew.TRAIN)
        real = label >= 0
        target = real / real.sum(1, keepdim=True).clamp(min=1)
        (-(torch.log_softmax(y, 1).gather(1, label.clamp(min=0)) * target).sum() / BATCH).backward()
        sparse.step()
        dense.step()

    def precision() -> float:
        found = 0.0
        with torch.no_grad():
            for _ in range(TESTED // BATCH):
                y, label = scores(brew.TEST)
                found += float((label == y.argmax(1, keepdim=True)).any(1).float().mean())
        return found / (TESTED // BATCH)
    return step, precision


def run(args: argparse.Namespace, name: str, seed: int) -> list[dict[str, Any]]:
    """Trains one side; its tests."""
    step, precision = torch_side(args, seed) if name == "torch dense" else brew_side(args, SIDES[name], seed)
    tests, used, wall, steps, due = [], 0.0, 0.0, 0, args.first
    while used < args.seconds:
        cpu, clock = process_time(), perf_counter()
        step()
        used, wall, steps = used + process_time() - cpu, wall + perf_counter() - clock, steps + 1
        if used >= min(due, args.seconds):
            tests.append(dict(side=name, seed=seed, due=min(due, args.seconds), cpu=round(used, 2), wall=round(wall, 2), steps=steps, p1=precision()))
            print(tests[-1], flush=True)
            due *= 2
    return tests


def table(lines: list[dict[str, Any]]) -> None:
    times = sorted({line["due"] for line in lines})
    print("| side | ms a step | " + " | ".join(f"{t:g} s" for t in times) + " |\n" + "| --- " * (2 + len(times)) + "|")
    for name in dict.fromkeys(line["side"] for line in lines):
        cells, own = [], [line for line in lines if line["side"] == name]
        for t in times:
            p = [line["p1"] for line in own if line["due"] == t]
            cells.append(f"{mean(p):.3f} ± {stdev(p) / len(p) ** 0.5:.3f}" if len(p) > 1 else f"{p[0]:.3f}" if p else "")
        last = [line for line in own if line["due"] == times[-1]]
        print(f"| {name} | {mean(1e3 * line['cpu'] / line['steps'] for line in last or own):.1f} | " + " | ".join(cells) + " |")


def plot(lines: list[dict[str, Any]], file: str, outputs: int) -> None:
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.fonttype"] = "none"
    from matplotlib import pyplot as plt
    figure, axes = plt.subplots(figsize=(7, 4.2))
    for name in dict.fromkeys(line["side"] for line in lines):
        own = [line for line in lines if line["side"] == name]
        times = sorted({line["due"] for line in own})
        style = ":" if "log q" in name else "--" if "each" in name else "-"
        axes.plot(times, [mean(line["p1"] for line in own if line["due"] == t) for t in times], style, marker=".", label=name)
    axes.set(xscale="log", xlabel="CPU time of training, seconds", ylabel="P@1", title=f"{outputs:,} outputs")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data")
    for name, default in (("outputs", 131072), ("features", 131072), ("seeds", 3), ("samples", 1024), ("bits", 9), ("winners", 5), ("tables", 50)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, real in (("seconds", 120.0), ("first", 7.5), ("lr", 1e-3), ("std", 0.1)):
        parser.add_argument(f"--{name}", type=float, default=real)
    parser.add_argument("--only", nargs="*", choices=SIDES, default=list(SIDES))
    parser.add_argument("--lines", default="precision_over_time.jsonl")
    parser.add_argument("--plot")
    args = parser.parse_args()
    brew.set_threads(1)
    if "torch dense" in args.only:
        import torch
        torch.set_num_threads(1)
    file = Path(args.lines)
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for seed in range(1, args.seeds + 1):
        for name in args.only:
            if not any(line["side"] == name and line["seed"] == seed and line["due"] == args.seconds for line in lines):
                tests = run(args, name, seed)
                lines += tests
                with file.open("a") as f:
                    f.writelines(json.dumps(test) + "\n" for test in tests)
    print(f"{processor()}, 1 thread, {args.outputs:,} outputs, {args.samples} samples, {args.tables} tables, {args.seeds} seed(s)")
    table(lines)
    if args.plot:
        plot(lines, args.plot, args.outputs)


if __name__ == "__main__":
    main()
