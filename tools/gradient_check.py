"""Compare the gradients that layers compute with differences of what they compute. For tests, and for who writes a layer."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.net import Net
from ..proto import parse, pb


class GradientError(AssertionError):
    """A gradient that differs from its estimate; the text names the element, and both values."""


def one_layer_net(layer: str, *shapes: tuple[int, ...], phase: int = pb.TRAIN, seed: int = 1701) -> Net:
    """A net of Inputs b0, b1, ... of these shapes and one layer "l", given as prototxt text without bottoms.

    `layer` is what stands inside `layer { }`: type, tops and parameters.
    """
    inputs = "".join(f'layer {{ name: "in{i}" type: "Input" top: "b{i}" input_param {{ shape {{ {" ".join(f"dim: {d}" for d in s)} }} }} }}\n'
                     for i, s in enumerate(shapes))
    bottoms = " ".join(f'bottom: "b{i}"' for i in range(len(shapes)))
    return Net(parse(f'force_backward: true\n{inputs}layer {{ name: "l" {bottoms} {layer} }}', pb.NetParameter()), phase, seed=seed)


def check_gradient(net: Net, layer: str = "l", skip: tuple[int, ...] = (), step: float = 1e-2, tolerance: float = 2e-3,
                   most: int = 60, seed: int = 0, counted: int | None = None) -> None:
    """Check every bottom (but those numbered in `skip`) and every parameter of a layer against central differences.

    The objective is a random weighted sum of the tops, or of the first `counted` of them. Differences are relative to max(|a|, |b|, 1), as in Caffe's
    checker; of large blobs `most` random elements are tried.  Raises GradientError.
    """
    rng = np.random.default_rng(seed)
    number = net._layer_names.index(layer)
    bottoms, tops = net.bottoms[number], net.tops[number]
    counters = [(x, x.counter, getattr(x, x.counter)) for x in net.nodes if x.counter]
    carried = [(memory, memory.plain().copy()) for x in net.nodes for memory in x.carried]
    weights: list[np.ndarray] = []

    def run(blob: Any = None, place: tuple[int, ...] = (), change: float = 0.0) -> float:
        for (_, target), start in zip(targets, starts):    # a layer in place has overwritten its bottom
            target.data[...] = start
        if blob is not None:
            blob.data[place] += change
        for x, name, value in counters:                    # the same random draws each time
            setattr(x, name, value)
        for memory, values in carried:                     # and the same states to begin with
            memory.assign(values)
        net.forward(start=layer, end=layer)
        while len(weights) < len(tops):
            weights.append((len(weights) < (counted or len(tops))) * rng.uniform(-1, 1, tops[len(weights)].shape).astype(np.float32))
        return float(sum((top.data.astype(np.float64) * w).sum() for top, w in zip(tops, weights)))

    targets = [(f"bottom[{i}]", blob) for i, blob in enumerate(bottoms) if i not in skip]
    targets += [(f"blob[{i}]", blob) for i, (blob, spec) in enumerate(zip(net.nodes[number].blobs, net.nodes[number].param_specs)) if spec.lr_mult]
    starts = [blob.data.copy() for _, blob in targets]
    run()
    for top, w in zip(tops, weights):
        top.diff[...] = w
    net.clear_param_diffs()
    needed = {id(blob.value.store) for blob in (*net.nodes[number].backward_reads(bottoms, tops), *(bottoms[i] for i in skip))}
    for blob in (*bottoms, *tops):
        if id(blob.value.store) not in needed:                 # training would have given its memory to others
            blob.data[...] = np.nan
    net.backward(start=layer, end=layer)
    computed = [blob.diff.copy() for _, blob in targets]
    for (name, blob), start, gradient in zip(targets, starts, computed):
        places = list(np.ndindex(*start.shape))
        if len(places) > most:
            places = [places[k] for k in rng.choice(len(places), most, replace=False)]
        for place in places:
            difference = run(blob, place, step) - run(blob, place, -step)
            _compare(name, place, float(gradient[place]), difference / (2 * step), tolerance)


def _compare(name: str, place: tuple[Any, ...], computed: float, estimated: float, tolerance: float) -> None:
    if not abs(computed - estimated) <= tolerance * max(abs(computed), abs(estimated), 1.0):
        raise GradientError(f"{name}[{', '.join(map(str, place))}]: backward says {computed:g}, differences say {estimated:g}")
