"""Learning rates as functions of the iteration: Caffe's policies, SSD's plateau, and brew's cosine and linear warm-up."""
from __future__ import annotations

import logging
from collections.abc import Callable
from math import cos, exp, pi

import numpy as np

from ..engine.errors import Position, SolverError, nearest
from ..proto import brew_pb2 as pb

log = logging.getLogger("brew")
Rate = Callable[[pb.SolverParameter, int, int], float]

# name -> (rate(param, iteration, step), the fields it needs)
POLICIES: dict[str, tuple[Rate, tuple[str, ...]]] = {
    "fixed": (lambda p, i, _: p.base_lr, ()),
    "step": (lambda p, i, _: p.base_lr * p.gamma ** (i // p.stepsize), ("gamma", "stepsize")),
    "exp": (lambda p, i, _: p.base_lr * p.gamma**i, ("gamma",)),
    "inv": (lambda p, i, _: p.base_lr * (1 + p.gamma * i) ** -p.power, ("gamma", "power")),
    "multistep": (lambda p, i, step: p.base_lr * p.gamma**step, ("gamma", "stepvalue")),
    "plateau": (lambda p, i, step: p.base_lr * p.gamma**step, ("gamma", "plateau_winsize")),     # see Plateau
    "poly": (lambda p, i, _: p.base_lr * max(0.0, 1 - i / p.max_iter) ** p.power, ("power", "max_iter")),
    "sigmoid": (lambda p, i, _: p.base_lr / (1 + exp(min(-p.gamma * (i - p.stepsize), 700.0))), ("gamma", "stepsize")),
    # Loshchilov and Hutter 2017, without restarts: half a cosine from base_lr to min_lr at max_iter
    "cosine": (lambda p, i, _: p.min_lr + (p.base_lr - p.min_lr) * (1 + cos(pi * min(i, p.max_iter) / p.max_iter)) / 2, ("max_iter",)),
}


def check(param: pb.SolverParameter, file: str = "") -> None:
    """Raise SolverError unless the policy exists and has what it needs."""
    at = Position(file) if file else None
    if param.lr_policy not in POLICIES:
        what = f'no lr_policy is called "{param.lr_policy}"{nearest(param.lr_policy, POLICIES)}' if param.lr_policy else "lr_policy must be given"
        raise SolverError(f"{what}\n  there are {', '.join(POLICIES)}", at)
    if not param.HasField("base_lr"):
        raise SolverError("base_lr must be given", at)
    for field in POLICIES[param.lr_policy][1]:
        repeated = field in ("stepvalue", "plateau_winsize")
        if not (getattr(param, field) if repeated else param.HasField(field)):
            raise SolverError(f'lr_policy "{param.lr_policy}" needs {field}', at)
    if param.lr_policy == "sigmoid" and param.gamma < 0:                # what DIGITS writes
        log.warning("gamma is %g: with lr_policy \"sigmoid\" the rate falls from base_lr to 0, with its half at stepsize", param.gamma)
    elif "gamma" in POLICIES[param.lr_policy][1] and param.gamma < 0:
        raise SolverError(f"gamma must not be negative, found {param.gamma:g}", at)
    for field in ("stepsize", "max_iter"):
        if field in POLICIES[param.lr_policy][1] and getattr(param, field) <= 0:
            raise SolverError(f"{field} must be more than 0, found {getattr(param, field)}", at)


def advance(param: pb.SolverParameter, iteration: int, step: int) -> int:
    """The multistep policy's step at this iteration, from that of the one before."""
    if param.lr_policy == "multistep" and step < len(param.stepvalue) and iteration >= param.stepvalue[step]:
        return step + 1
    return step


class Plateau:
    """The plateau policy's memory: a step is done when the loss has found no new minimum for plateau_winsize iterations, one
    number for each step; the last rate then stays. From SSD's fork (Liu et al. 2016)."""

    def __init__(self) -> None:
        self.minimum, self.since = float(np.float32(1e38)), 0       # the smallest loss, and when it was seen or the step began

    def advance(self, param: pb.SolverParameter, iteration: int, step: int, loss: float) -> int:
        """The step at this iteration, after one with this (smoothed) loss."""
        if float(np.float32(loss)) < self.minimum:         # single precision, as snapshots keep it
            self.minimum, self.since = float(np.float32(loss)), iteration
        if step < len(param.plateau_winsize) and iteration >= self.since + param.plateau_winsize[step]:
            self.since = iteration
            return step + 1
        return step


def rate(param: pb.SolverParameter, iteration: int, step: int = 0) -> float:
    """The learning rate of an iteration. With warmup_iter it rises linearly from warmup_start_lr to the policy's own rate."""
    value = POLICIES[param.lr_policy][0](param, iteration, step)
    if iteration < param.warmup_iter:
        return param.warmup_start_lr + (value - param.warmup_start_lr) * iteration / param.warmup_iter
    return value


