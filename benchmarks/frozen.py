"""What a train step costs when only the last layer learns (lr_mult 0 for all others), beside all learning and beside forward alone.

    pip install '.[bench]' && python benchmarks/frozen.py [--rounds 7] [--threads 2] [squeezenet resnet50 vgg16]

Each runs in a process of its own; memory is the most that it ever held, libraries included.
"""
from __future__ import annotations

import argparse
import subprocess
import sys
from datetime import date

from memory import peak_megabytes
from train_step import NETS, brew_solver, measure, processor

import brew
from brew.engine.context import dry_run
from brew.proto import pb

LAST = {"squeezenet": "conv10", "resnet50": "fc1000", "vgg16": "fc8"}


def freeze(net: pb.NetParameter) -> None:
    """Give everything but the last layer a rate of 0."""
    with dry_run():
        blobs = {layer.name: len(layer.blobs) for layer in brew.Net(net, brew.TRAIN).layers}
    for layer in net.layer:
        if layer.name != LAST[net.name]:
            del layer.param[:]
            layer.param.extend(pb.ParamSpec(lr_mult=0) for _ in range(blobs[layer.name]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("nets", nargs="*", default=list(LAST))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["all", "last"], help="measure this one in this process")
    args = parser.parse_args()
    brew.set_threads(args.threads)
    if args.only:
        name = args.nets[0]
        solver = brew_solver(name, NETS[name][0], *([freeze] if args.only == "last" else []))
        solver.step(2)
        ms = measure({"step": lambda: solver.step(1), "forward": lambda: solver.net.run_forward(keep=False)}, args.rounds, 1)
        print(ms["step"], ms["forward"], peak_megabytes())
        return
    print(f"{processor()}, {args.threads} threads, brew {brew.__version__}, {date.today()}; medians of {args.rounds} rounds\n")
    print("| net, batch | step, all learn, ms | only the last layer | forward | memory, all learn, MB | only the last layer |\n" + "| --- " * 6 + "|")
    for name in args.nets:
        command = [sys.executable, __file__, name, "--rounds", str(args.rounds), "--threads", str(args.threads), "--only"]
        (step, forward, most), (last, _, least) = ([float(v) for v in subprocess.run([*command, which], check=True, capture_output=True, text=True).stdout.split()] for which in ("all", "last"))
        print(f"| {name} {NETS[name][0][0]} | {step:.0f} | {last:.0f} | {forward:.0f} | {most:.0f} | {least:.0f} |", flush=True)


if __name__ == "__main__":
    main()
