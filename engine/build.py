"""From a NetParameter to a Graph, in passes: each reads what those before it found."""
from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ..proto import brew_pb2 as pb
from .blob import Blob
from .context import Context
from .errors import fail, nearest
from .graph import Graph
from .layer import Layer, layer_class
from .passes import plan_backward
from .resources import check_memory
from .rewrites import check_rewrites, find_rewrites
from .sharing import share_parameters

log = logging.getLogger("brew")
UNNAMED = "(automatic)"                      # the top of a loss that leaves it unnamed


def build(param: pb.NetParameter, declared: set[str], seed: int, context: Context, phase: int) -> Graph:
    """The graph of a net whose layers have been chosen and split (passes.py); `declared` are the names of those that
    were not inserted. Raises NetError or ShapeError with file, line and layer."""
    layers = [layer_class(p)(p, p.phase, seed) for p in param.layer]
    wiring = connect(layers)
    blobs = [Blob() for _ in wiring.names]
    bottoms = [[blobs[b] for b in ids] for ids in wiring.bottoms]
    tops = [[blobs[t] for t in ids] for ids in wiring.tops]
    memory = set_up(layers, wiring, bottoms, tops, None if context.dry else phase)
    runs, down = plan_backward(layers, wiring.bottoms, wiring.tops, len(blobs), param.force_backward)
    say_who_runs_backward(layers, runs)
    check_rewrites(layers, bottoms, tops)
    rewrites = find_rewrites(layers, bottoms, tops, runs)
    names = [layer.name for layer in layers]
    for r in rewrites:
        log.info("%s overwrites what the backward pass of %s needs: a copy is kept", names[r.by], names[r.reader])
    splits = frozenset(i for i, name in enumerate(names) if name not in declared)
    parameters, observers = share_parameters(layers, names), find_observed(layers, wiring, blobs)
    inputs, outputs = ends(layers, wiring)
    return Graph(tuple(layers), names, wiring.bottoms, wiring.tops, bottoms, tops, tuple(runs), down, splits,
                 tuple(blobs), wiring.names, tuple(rewrites), parameters, observers, inputs, outputs, memory)


@dataclass(frozen=True)
class Wiring:
    """The names of all blobs, and for each layer the numbers of those that it reads and makes."""

    names: list[str]
    bottoms: list[list[int]]
    tops: list[list[int]]


def connect(layers: Sequence[Layer]) -> Wiring:
    """Number the blobs: each top is a new one, unless its layer writes it over its bottom."""
    wiring, numbers = Wiring([], [], []), dict[str, int]()
    for layer in layers:
        p, made = layer.param, []
        read = [numbers[name] for name in p.bottom]
        for i, name in enumerate(p.top):
            if i < len(p.bottom) and p.bottom[i] == name:
                layer.require(layer.in_place, "cannot write its top over its bottom: give the top another name",
                              f"top[{i}]")
            else:
                numbers[name] = len(wiring.names)
                wiring.names.append(name)
            made.append(numbers[name])
        if layer.is_loss and not made:
            made.append(len(wiring.names))
            wiring.names.append(UNNAMED)
        wiring.bottoms.append(read)
        wiring.tops.append(made)
    return wiring


def set_up(layers: Sequence[Layer], wiring: Wiring, bottoms: Sequence[list[Blob]], tops: Sequence[list[Blob]],
           phase: int | None) -> int:
    """Set up each layer, so that its tops have their shapes when the next one reads them. Returns the bytes of all
    tops, as Caffe counts them. Memory that will be needed in this phase is looked for; None: the net will not run."""
    memory = held = 0                        # bytes of tops, layers in place included; of different stores
    stores: set[int] = set()
    for layer, ids, bottom, top in zip(layers, wiring.tops, bottoms, tops):
        p = layer.param
        log.info("Creating Layer %s", p.name)
        for i, name in enumerate(p.top):
            log.info("%s -> %s%s", p.name, name, " (in-place)" if i < len(p.bottom) and p.bottom[i] == name else "")
        set_up_layer(layer, bottom, top)
        log.info("Setting up %s", p.name)
        for blob, weight in zip(top, layer.loss_weights):
            memory += 4 * blob.count
            log.info("Top shape: %s (%d)", " ".join(map(str, blob.shape)), blob.count)
            if weight:
                log.info("    with loss weight %g", weight)
        log.info("Memory required for data: %d", memory)
        held += sum(4 * blob.count for blob in top if id(blob.value.store) not in stores)
        stores.update(id(blob.value.store) for blob in top)
        if phase == pb.TRAIN:                # all values are kept; gradients take turns
            check_memory(p, held, "the net up to here")
        elif phase is not None:
            check_memory(p, 4 * sum(blob.count for blob in {*bottom, *top}),
                         "this layer, with what it reads and makes,")
    return memory


def set_up_layer(layer: Layer, bottom: list[Blob], top: list[Blob]) -> None:
    """Let a layer check its bottoms, make its parameters and give its tops their shapes."""
    layer.check_counts(len(bottom), len(top))
    try:
        layer.setup(bottom, top)
        layer.reshape(bottom, top)
    except MemoryError:
        fail(layer.param, "there is not enough memory for its parameters")
    layer.set_loss_weights(top)
    given, made = list(layer.param.param), len(layer.blobs)
    layer.require(len(given) <= made, f"has {made} parameters and {len(given)} param specifications", "param")
    layer.param_specs = given + [pb.ParamSpec() for _ in range(made - len(given))]


def say_who_runs_backward(layers: Sequence[Layer], runs: Sequence[bool]) -> None:
    for layer, need in zip(layers, runs):
        layer.runs_backward = need
        log.info("%s %s backward computation.", layer.name, "needs" if need else "does not need")


def find_observed(layers: Sequence[Layer], wiring: Wiring,
                  blobs: Sequence[Blob]) -> list[tuple[Layer, dict[str, Blob]]]:
    """The layers that want to see blobs after each forward pass, with these by name. Raises NetError for a name that no
    blob has."""
    found, named = [], dict(zip(wiring.names, blobs))
    for layer in layers:
        for name in layer.observes:
            layer.require(name in named, f'wants to see blob "{name}", which no layer makes{nearest(name, named)}')
        if layer.observes:
            found.append((layer, {name: named[name] for name in layer.observes}))
    return found


def ends(layers: Sequence[Layer], wiring: Wiring) -> tuple[list[str], list[str]]:
    """(inputs, outputs): the tops of Input layers, and the blobs that no layer reads."""
    made: dict[str, None] = {}
    for layer, ids in zip(layers, wiring.tops):
        for name in layer.param.bottom:
            made.pop(name, None)
        made.update(dict.fromkeys(wiring.names[t] for t in ids))
    for name in sorted(made):
        log.info("This network produces output %s", name)
    return [name for layer in layers if layer.param.type == "Input" for name in layer.param.top], sorted(made)
