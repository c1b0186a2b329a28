"""Train steps of brew beside PyTorch's on the same cores: forward, backward, update; random data, no input pipeline.

    pip install '.[bench]' && python benchmarks/train_step.py [--rounds 9] [--threads 2] [--no-compile] [lenet resnet50 ...]

Rounds are interleaved (brew, eager, channels_last, brew, ...), each a few steps long; the figures are medians of rounds.
"""
from __future__ import annotations

import argparse
import platform
import re
from collections.abc import Callable
from datetime import date
from math import nan
from pathlib import Path
from statistics import geometric_mean, median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch_net import TorchNet

import brew
from brew.engine.passes import filter_layers
from brew.proto import pb, read_net

MODELS = Path(brew.layers.__file__).resolve().parents[1] / "models"


# name -> (shape of a batch, steps to a round)
NETS: dict[str, tuple[tuple[int, ...], int]] = {
    "lenet": ((64, 1, 28, 28), 20), "cifar10_quick": ((100, 3, 32, 32), 8), "alexnet": ((32, 3, 227, 227), 1), "caffenet": ((32, 3, 227, 227), 1),
    "vgg16": ((8, 3, 224, 224), 1), "googlenet": ((32, 3, 224, 224), 1), "squeezenet": ((32, 3, 227, 227), 1), "mobilenet": ((32, 3, 224, 224), 1),
    "resnet50": ((16, 3, 224, 224), 1), "inception_v3": ((8, 3, 299, 299), 1), "xception": ((8, 3, 299, 299), 1)}
COMPILED = ("caffenet", "resnet50", "xception")        # compiling takes minutes


def read_train_net(name: str) -> pb.NetParameter:
    """models/NAME in TRAIN, without its data layers."""
    net = read_net(MODELS / name / "train_val.prototxt")
    net.state.phase = pb.TRAIN
    net = filter_layers(net)
    layers = [layer for layer in net.layer if layer.type != "Data"]
    del net.layer[:]
    net.layer.extend(layers)
    return net


def brew_solver(name: str, shape: tuple[int, ...], change: Callable[[pb.NetParameter], None] = lambda net: None) -> brew.SGDSolver:
    """brew's solver on models/NAME, its data layer replaced by an Input with fixed random images; `change` may alter the net."""
    net = pb.NetParameter(name=name)
    data = net.layer.add(name="data", type="Input", top=["data", "label"])
    data.input_param.shape.add(dim=shape)
    data.input_param.shape.add(dim=shape[:1])
    net.layer.extend(read_train_net(name).layer)
    change(net)
    solver = brew.get_solver(pb.SolverParameter(net_param=net, base_lr=0.001, lr_policy="fixed", momentum=0.9, weight_decay=0.0005, random_seed=1))
    rng = np.random.default_rng(0)
    solver.net.blobs["data"].data[...] = rng.standard_normal(shape)
    solver.net.blobs["label"].data[...] = rng.integers(0, 10, shape[0])
    return solver  # type: ignore[return-value]


def brew_step(name: str, shape: tuple[int, ...]) -> Callable[[], None]:
    """One iteration of brew_solver()."""
    solver = brew_solver(name, shape)
    return lambda: solver.step(1)


def torch_step(name: str, shape: tuple[int, ...], channels_last: bool, compiled: bool = False, device: str = "cpu",
               amp: bool = False) -> Callable[[], None]:
    """One iteration of the same net in torch, with fused SGD; `amp`: with autocast to bfloat16."""
    model: Any = TorchNet(read_train_net(name), shape).to(device)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(device)
    y = torch.from_numpy(rng.integers(0, 10, shape[0])).to(device)
    if channels_last:
        model, x = model.to(memory_format=torch.channels_last), x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9, weight_decay=0.0005, fused=True)
    if compiled:
        model = torch.compile(model)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=amp):
            loss = model(x, y)
        loss.backward()
        optimizer.step()
    return step


def measure(steps: dict[str, Callable[[], None]], rounds: int, length: int) -> dict[str, float]:
    """Median milliseconds of a step of each, in interleaved rounds of `length` steps."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(length):
            step()
    for _ in range(rounds):
        for name, step in steps.items():
            start = perf_counter()
            for _ in range(length):
                step()
            times[name].append(1e3 * (perf_counter() - start) / length)
    return {name: median(values) for name, values in times.items()}


def processor() -> str:
    try:
        return re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())[1]  # type: ignore[index]
    except (OSError, TypeError):
        return platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("nets", nargs="*", default=[])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    brew.set_threads(args.threads)
    print(f"{processor()}, {args.threads} threads, torch {torch.__version__}, brew {brew.__version__}, {date.today()}; ms per step, medians of {args.rounds} rounds\n")
    print("| net, batch | brew | torch eager | torch channels_last | torch.compile, channels_last | eager / brew | best of torch / brew |\n" + "| --- " * 7 + "|")
    ratios: list[tuple[float, float]] = []
    for name in args.nets or NETS:
        shape, length = NETS[name]
        steps = {"brew": brew_step(name, shape), "eager": torch_step(name, shape, False), "last": torch_step(name, shape, True)}
        if name in COMPILED and not args.no_compile:
            steps["compiled"] = torch_step(name, shape, True, compiled=True)
        ms = measure(steps, args.rounds, length)
        ratios.append((ms["eager"] / ms["brew"], min(ms[k] for k in ms if k != "brew") / ms["brew"]))
        print(f"| {name} {shape[0]} | {ms['brew']:.2f} | {ms['eager']:.2f} | {ms['last']:.2f} | {ms.get('compiled', nan):.2f} | {ratios[-1][0]:.2f} | {ratios[-1][1]:.2f} |".replace("nan", ""), flush=True)
    print("| geometric mean | | | | | " + " | ".join(f"{geometric_mean(column):.2f}" for column in zip(*ratios)) + " |")


if __name__ == "__main__":
    main()
