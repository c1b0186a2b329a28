"""What brew costs beside arithmetic: steps of nets of 100 tiny layers, and the time to build a real net.

    python benchmarks/overhead.py [--rounds 30] [--threads 2]
"""
from __future__ import annotations

import argparse
from datetime import date
from time import perf_counter

from train_step import MODELS, brew_step, measure, processor

import brew
from brew.proto import parse, pb

LAYERS = {
    "ReLU": "", "Sigmoid": "", "Dropout": "", "Scale": "", "BatchNorm": "",
    "Pooling": "pooling_param { kernel_size: 1 }",
    "InnerProduct": "inner_product_param { num_output: 1 weight_filler { type: 'xavier' } }",
    "Convolution": "convolution_param { num_output: 1 kernel_size: 1 weight_filler { type: 'xavier' } }"}
CHAINS = [["ReLU"], ["Sigmoid"], ["Pooling"], ["Dropout"], ["InnerProduct"], ["Convolution"], ["Scale"], ["BatchNorm"],
          ["Convolution", "ReLU"], ["Convolution", "BatchNorm", "Scale", "ReLU"]]


def chain(kinds: list[str], length: int) -> pb.NetParameter:
    """`length` layers on blobs of 1 x 1 x 1 x 1, these types in turn. In longer patterns BatchNorm, Scale and ReLU are in
    place, as zoo nets have them."""
    net = pb.NetParameter(name="+".join(kinds), force_backward=True)
    net.layer.add(name="data", type="Input", top=["data"]).input_param.shape.add(dim=[1, 1, 1, 1])
    blob = "data"
    for i in range(length):
        kind = kinds[i % len(kinds)]
        layer = net.layer.add(name=f"layer{i}", type=kind, bottom=[blob])
        parse(LAYERS[kind], layer)
        blob = blob if len(kinds) > 1 and i % len(kinds) else f"blob{i}"
        layer.top.append(blob)
    net.layer.add(name="loss", type="EuclideanLoss", bottom=[blob, "data"], top=["loss"])
    return net


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    brew.set_threads(args.threads)
    print(f"{processor()}, {args.threads} threads, brew {brew.__version__}, {date.today()}; medians of {args.rounds} rounds\n")
    steps = {}
    for kinds in CHAINS:
        solver = brew.get_solver(pb.SolverParameter(net_param=chain(kinds, 100), base_lr=1e-6, lr_policy="fixed", momentum=0.9, weight_decay=0.0005, random_seed=1))
        solver.net.blobs["data"].data[...] = 1
        steps[", ".join(kinds)] = lambda solver=solver: solver.step(10)
    print("| 100 layers | forward, backward and update, ms |\n| --- | --- |")
    for name, ms in measure(steps, args.rounds, 1).items():
        print(f"| {name} | {ms / 10:.2f} |")
    print("\n| ResNet-50 | s |\n| --- | --- |")
    start = perf_counter()
    brew.Net(MODELS / "resnet50" / "deploy.prototxt", brew.TEST)
    print(f"| Net, deploy.prototxt | {perf_counter() - start:.2f} |")
    start = perf_counter()
    step = brew_step("resnet50", (16, 3, 224, 224))
    print(f"| Solver, batch 16 | {perf_counter() - start:.2f} |")
    start = perf_counter()
    step()
    print(f"| its first step, in which oneDNN makes its primitives | {perf_counter() - start:.2f} |")


if __name__ == "__main__":
    main()
