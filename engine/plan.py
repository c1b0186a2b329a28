"""What a whole run does, step by step: which layers run as one, and whose memory is free after each step."""
from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .layer import Layer
from .memory import Store

SMALL = 16384            # floats; memory of fewer is not worth giving to others


@dataclass(frozen=True)
class Step:
    """One call: layer `first`, which does the work of those up to `last` if that is another, and then the stores `done`
    that no later step touches."""

    first: int
    last: int
    done: Sequence[Store] = ()


def plan_fusion(layers: Sequence[Layer], bottoms: Sequence[Sequence[int]], tops: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """{layer: those behind it} where all run as one: the first makes a blob that only the others rewrite in place.

    `bottoms` and `tops` hold each layer's blob numbers.
    """
    plan: dict[int, list[int]] = {}
    taken: set[int] = set()
    for i, first in enumerate(layers):
        if i in taken or len(tops[i]) != 1 or any(first.loss_weights):
            continue
        chain: list[int] = []
        for k in range(i + 1, len(layers)):
            if not tops[i] == bottoms[k] == tops[k] or any(layers[k].loss_weights):
                break
            chain.append(k)
        while chain and not first.can_fuse([layers[k] for k in chain]):
            chain.pop()
        if chain:
            plan[i] = chain
            taken.update(chain)
    return plan


def forward_steps(net: Any, release: bool) -> list[Step]:
    """All layers in order. With `release`, values are given up after their last reader: all but the net's outputs and what
    layers without bottoms bring."""
    steps = []
    last = -1
    for i in range(len(net.layers)):
        if i > last:
            last = net.fusions[i][-1] if i in net.fusions else i
            steps.append(Step(i, last))
    if not release:
        return steps
    kept = {id(net.blobs[name].value.store) for name in net.outputs}
    kept |= {id(top.value.store) for bottoms, tops in zip(net.bottoms, net.tops) if not bottoms for top in tops}
    return _with_releases(steps, net, "value", kept)


def backward_steps(net: Any, runs: Sequence[bool], down: Sequence[Sequence[bool]], release: bool) -> list[Step]:
    """The layers that run backward, the last one first. With `release`, gradients are given up after their last reader: all
    but those of the outputs, where loss weights live."""
    ends = {chain[-1]: i for i, chain in net.fusions.items() if net.layers[i].fuses_backward and all(runs[k] and all(down[k]) for k in chain)}
    steps = []
    first = len(net.layers)
    for i in reversed(range(len(net.layers))):
        if i < first and runs[i]:
            first = ends.get(i, i)
            steps.append(Step(first, i))
    if not release:
        return steps
    return _with_releases(steps, net, "gradient", {id(net.blobs[name].gradient.store) for name in net.outputs} |
                          {id(top.gradient.store) for layer, tops in zip(net.layers, net.tops) for top, w in zip(tops, layer.loss_weights) if w})


def _with_releases(steps: list[Step], net: Any, part: str, kept: set[int]) -> list[Step]:
    seen, planned = set(kept), []
    for step in reversed(steps):
        done = []
        for store in _touched(net, step, part):
            if id(store) not in seen:
                seen.add(id(store))
                if store.size >= SMALL:
                    store.pooled = True
                    done.append(store)
        planned.append(Step(step.first, step.last, done))
    return planned[::-1]


def _touched(net: Any, step: Step, part: str) -> Iterable[Store]:
    for i in range(step.first, step.last + 1):
        for blob in (*net.bottoms[i], *net.tops[i], *net.layers[i].private_blobs):
            yield getattr(blob, part).store
