"""Step of first_run.py: train steps of brew beside torch's in the same process, and where brew's Python time goes."""
from __future__ import annotations

import argparse
import cProfile
import io
import pstats
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from checks import gpu

SIDES = ("brew", "FP32", "TF32", "AMP")


def times(args: argparse.Namespace) -> bool:
    """A line for each net: rounds of all sides interleaved, medians. AMP is autocast to bfloat16, in channels_last."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    on = gpu()
    print("| net, batch | brew | torch FP32 | torch TF32 | torch AMP | FP32 / brew | best / brew | MB | torch MB |")
    print("| --- " * 9 + "|", flush=True)
    for text in args.nets:
        name, _, batch = text.partition(":")
        print(line(on, name, int(batch), args), flush=True)
    return True


def line(on: Any, name: str, batch: int, args: argparse.Namespace) -> str:
    """Milliseconds of a step, ratios, and the most memory so far."""
    import torch
    import train_step
    shape, brew_steps = (batch, *train_step.NETS[name][0][1:]), 20 if name == "lenet" else 2
    where = "cuda" if torch.cuda.is_available() else "cpu"
    torch.backends.cudnn.benchmark = True
    solver = train_step.brew_solver(name, shape)

    def brew_side() -> None:
        solver.step(brew_steps)
        on.synchronize()

    def torch_side(precision: str) -> Callable[[], None]:
        amp = precision == "AMP"
        step = train_step.torch_step(name, shape, channels_last=amp, device=where, amp=amp)

        def run() -> None:
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision != "FP32"
            for _ in range(args.torch_steps):
                step()
            if where == "cuda":
                torch.cuda.synchronize()
        return run

    sides = {side: torch_side(side) if side != "brew" else brew_side for side in SIDES}
    rounds = train_step.measure(sides, args.rounds, 1)
    ms = {side: rounds[side] / (brew_steps if side == "brew" else args.torch_steps) for side in SIDES}
    pool = on.xp.get_default_memory_pool().total_bytes() if hasattr(on.xp, "get_default_memory_pool") else 0
    reserved = torch.cuda.max_memory_reserved() if where == "cuda" else 0
    profile, text = cProfile.Profile(), io.StringIO()
    profile.runcall(brew_side)
    pstats.Stats(profile, stream=text).sort_stats("tottime").print_stats(25)
    with open(args.report / "profile.txt", "a") as file:
        file.write(f"{name} {batch}, {brew_steps} steps\n{text.getvalue()}\n")
    ratios = [ms["FP32"] / ms["brew"], min(ms[side] for side in SIDES[1:]) / ms["brew"]]
    figures = [f"{x:.2f}" for x in (*ms.values(), *ratios)] + [f"{size / 1e6:.0f}" for size in (pool, reserved)]
    return f"| {name} {batch} | {' | '.join(figures)} |"
