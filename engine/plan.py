"""What a whole run does, step by step: which layers run as one, and whose memory is free after each step."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from .blob import Blob
from .graph import Graph
from .layer import Layer
from .store import Store
from .rewrites import Rewrite, with_copies

SMALL = 16384            # floats; memory of fewer is not worth giving to others
Fusions = Mapping[int, Sequence[int]]        # see plan_fusion


@dataclass(frozen=True)
class Step:
    """One call: layer `first` runs and does the work of those `following`, up to layer `last`. `bottom` is what it reads, its
    own first; `top` is what the last one makes; blobs in between, `hidden`, are not made. `saves` are the copies to be made
    before it. Its backward pass takes `back_bottom` and `back_top`. After it, nobody touches the stores `done`."""

    first: int
    last: int
    following: Sequence[Layer]
    bottom: list[Blob]
    top: list[Blob]
    back_bottom: list[Blob]
    back_top: list[Blob]
    hidden: Sequence[Blob] = ()
    saves: Sequence[Rewrite] = ()
    done: Sequence[Store] = ()


def single_step(graph: Graph, i: int, chain: Sequence[int] = ()) -> Step:
    """Layer number i, with the work of those in `chain`."""
    last = chain[-1] if chain else i
    inside = {id(blob) for k in (i, *chain) for blob in graph.tops[k]}
    bottom = [*graph.bottoms[i], *(blob for k in chain for blob in graph.bottoms[k] if id(blob) not in inside)]
    hidden = {id(blob): blob for k in (i, *chain) for blob in graph.tops[k] if blob not in graph.tops[last]}
    back_bottom = with_copies(graph.bottoms[i], graph.rewrites, (i,))
    back_top = with_copies(graph.tops[last], graph.rewrites, (i, *chain))
    # within a step, layers keep what they need
    saves = [r for r in graph.rewrites if r.reader < i <= r.by <= last]
    return Step(i, last, [graph.nodes[k] for k in chain], bottom, graph.tops[last], back_bottom, back_top,
                list(hidden.values()), saves)


def plan_fusion(graph: Graph, hide: bool) -> dict[int, list[int]]:
    """{layer: those behind it} where all run as one: the first makes a blob that only the others rewrite in place. With
    `hide`, one of the others may also join it with other blobs, so that the blob itself is never made."""
    layers, bottoms, tops = graph.nodes, graph.bottom_ids, graph.top_ids
    seen = {id(blob) for blob in graph.observed}
    plan: dict[int, list[int]] = {}
    taken: set[int] = set()
    for i, first in enumerate(layers):
        if i in taken or len(tops[i]) != 1:
            continue
        chain: list[int] = []
        for k in range(i + 1, len(layers)):
            before = tops[k - 1]
            in_place = before == bottoms[k] == tops[k]
            joins = hide and before == tops[i] and id(graph.tops[i][0]) not in seen and before[0] in bottoms[k] and len(bottoms[k]) > 1 and len(tops[k]) == 1
            if any(layers[k - 1].loss_weights) or not (in_place or joins):
                break
            chain.append(k)
        while chain and (any(layers[chain[-1]].loss_weights) or not first.can_fuse([layers[k] for k in chain])):
            chain.pop()
        if chain:
            plan[i] = chain
            taken.update(chain)
    return plan


def forward_steps(graph: Graph, fusions: Fusions, runs: Sequence[bool], release: bool) -> list[Step]:
    """All layers in order. With `release`, values are given up after their last reader, backward included (`runs` says which
    layers run it): all but the net's outputs and what layers without bottoms bring."""
    steps: list[Step] = []
    for i in range(len(graph.nodes)):
        if not steps or i > steps[-1].last:
            steps.append(single_step(graph, i, fusions.get(i, ())))
    if not release:
        return steps
    blobs = graph.named_blobs
    kept = {id(blobs[name].value.store) for name in graph.outputs}
    kept |= {id(blob.value.store) for blob in graph.observed}
    kept |= {id(top.value.store) for layer, tops in zip(graph.nodes, graph.tops) if not layer.writes_all
             for top in tops}
    for layer, bottoms, tops, backward in zip(graph.nodes, graph.bottoms, graph.tops, runs):
        kept |= {id(blob.value.store) for blob in (*(tops if not bottoms else ()), *(layer.backward_reads(bottoms, tops) if backward else ()))}
    return _with_releases(steps, graph, "value", kept)


def backward_steps(graph: Graph, fusions: Fusions, release: bool) -> list[Step]:
    """The layers that run backward, the last one first. With `release`, gradients are given up after their last reader: all
    but those of the outputs, where loss weights live."""
    runs, down, blobs = graph.runs, graph.down, graph.named_blobs
    ends = {chain[-1]: i for i, chain in fusions.items() if graph.nodes[i].fuses_backward
            and all(runs[k] and all(down[k]) for k in chain)}
    steps: list[Step] = []
    for i in reversed(range(len(graph.nodes))):
        if runs[i] and (not steps or i < steps[-1].first):
            first = ends.get(i, i)
            steps.append(single_step(graph, first, fusions[first] if first != i else ()))
    if not release:
        return steps
    kept = {id(blobs[name].gradient.store) for name in graph.outputs}
    for layer, bottoms, tops in zip(graph.nodes, graph.bottoms, graph.tops):
        kept |= {id(top.gradient.store) for top, w in zip(tops, layer.loss_weights) if w}
        kept |= {id(blob.gradient.store) for blob in bottoms if not layer.writes_all}
    return _with_releases(steps, graph, "gradient", kept)


def _with_releases(steps: list[Step], graph: Graph, part: str, kept: set[int]) -> list[Step]:
    seen, planned = set(kept), []
    for step in reversed(steps):
        done = []
        for store in _touched(graph, step, part):
            if id(store) not in seen:
                seen.add(id(store))
                if store.size >= SMALL:
                    store.take_from_pool()
                    done.append(store)
        planned.append(replace(step, done=done))
    return planned[::-1]


def _touched(graph: Graph, step: Step, part: str) -> Iterable[Store]:
    for i in range(step.first, step.last + 1):
        for blob in (*graph.bottoms[i], *graph.tops[i], *graph.nodes[i].private_blobs):
            yield getattr(blob, part).store
