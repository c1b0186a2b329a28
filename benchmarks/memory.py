"""Peak memory of train steps of brew beside PyTorch's, and what TEST saves by giving blobs' memory on to later blobs.

    pip install '.[bench]' && python benchmarks/memory.py [lenet resnet50 ...]

Each side runs three steps in a process of its own, in which both libraries are loaded. The figures are the most that the
process ever held (VmHWM), libraries and parameters included.
"""
from __future__ import annotations

import argparse
import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import numpy as np
from inference import deploy_net
from train_step import NETS, brew_step, processor, torch_step

import brew


def peak_megabytes() -> float:
    """The most that this process ever held."""
    return int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) / 1e3 * 1.024  # type: ignore[index]


def run_steps(name: str, side: str) -> None:
    shape = NETS[name][0]
    step = brew_step(name, shape) if side == "brew" else torch_step(name, shape, channels_last=False)
    for _ in range(3):
        step()
    print(peak_megabytes())


def in_own_process(name: str, side: str) -> float:
    result = subprocess.run([sys.executable, __file__, "--side", side, name], check=True, capture_output=True, text=True)
    return float(result.stdout.split()[-1])


def values_in_test(name: str) -> tuple[float, float]:
    """Megabytes of the values of models/NAME/deploy.prototxt's blobs, (each with memory of its own, as inference holds them)."""
    brew.engine.context.DEFAULT.pool.clear()
    param, shape = deploy_net(name, NETS[name][0][0])
    net = brew.Net(param, brew.TEST)
    net.blobs["data"].data[...] = np.random.default_rng(0).standard_normal(shape)
    for _ in range(2):
        net.forward()
    stores = {id(blob.value.store): blob.value.store for blob in net.blobs.values()}.values()
    held = sum(store.nbytes for store in stores) + net.context.pool.nbytes
    return sum(4e-6 * store.size for store in stores), held / 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("nets", nargs="*", default=[])
    parser.add_argument("--side", choices=["brew", "torch"], help="run three steps of this side only, and print the peak")
    args = parser.parse_args()
    if args.side:
        return run_steps(args.nets[0], args.side)
    print(f"{processor()}, brew {brew.__version__}, {date.today()}; MB\n")
    print("| net, batch | train step: brew | torch eager | brew / torch | TEST: sum of all blobs | held | held / sum |\n" + "| --- " * 7 + "|")
    for name in args.nets or NETS:
        ours, theirs, (unshared, held) = in_own_process(name, "brew"), in_own_process(name, "torch"), values_in_test(name)
        print(f"| {name} {NETS[name][0][0]} | {ours:.0f} | {theirs:.0f} | {ours / theirs:.2f} | {unshared:.1f} | {held:.1f} | {held / unshared:.0%} |", flush=True)


if __name__ == "__main__":
    main()
