"""Fillers: the first values of a parameter, from its FillerParameter."""
from __future__ import annotations

from math import ceil, prod, sqrt
from typing import Any

import numpy as np

from ..proto import brew_pb2 as pb
from .errors import nearest, require
from .random import Random

TYPES = ("bilinear", "constant", "gaussian", "msra", "positive_unitball", "uniform", "xavier")


def fill(shape: tuple[int, ...], filler: pb.FillerParameter, random: Random, layer: Any) -> np.ndarray:
    """A float32 array of `shape` filled as `filler` says.

    xavier is Glorot and Bengio 2010, uniform in +-sqrt(3/n); msra is He et al. 2015, normal with variance 2/n; n is the
    fan in (count / shape[0]), the fan out (count / shape[1]) or their mean.  Raises NetError about `layer`.
    """
    kind = filler.type
    require(kind in TYPES, layer, f'no filler is called "{kind}"; there are {", ".join(TYPES)}{nearest(kind, TYPES)}')
    require(filler.sparse == -1 or kind == "gaussian", layer, f'sparse is for the gaussian filler, not for "{kind}"')
    require(prod(shape) > 0, layer, f"a parameter of shape {shape} has nothing to fill")
    if kind == "constant":
        return np.full(shape, filler.value, np.float32)
    if kind == "uniform":
        return random.uniform(shape, filler.min, filler.max)
    if kind == "gaussian":
        normal = random.normal(shape, filler.mean, filler.std)
        if filler.sparse >= 0:
            normal *= random.uniform(shape) <= filler.sparse / shape[0]
        return normal
    if kind == "positive_unitball":
        values = random.uniform((shape[0], prod(shape[1:])))
        return np.asarray(values / values.sum(1, keepdims=True, dtype=np.float64), np.float32).reshape(shape)
    if kind == "bilinear":
        require(len(shape) == 4 and shape[2] == shape[3], layer, f"the bilinear filler needs square kernels of 4 axes, found {shape}")
        f = ceil(shape[3] / 2)
        c = (shape[3] - 1) / (2 * f)
        ramp = 1 - np.abs(np.arange(shape[3]) / f - c)
        return np.broadcast_to(np.outer(ramp, ramp), shape).astype(np.float32)
    n = _fan(shape, filler)
    if kind == "xavier":
        return random.uniform(shape, -sqrt(3 / n), sqrt(3 / n))
    return random.normal(shape, 0, sqrt(2 / n))


def _fan(shape: tuple[int, ...], filler: pb.FillerParameter) -> float:
    fan_in = prod(shape) / shape[0]
    fan_out = prod(shape) / shape[1] if len(shape) > 1 else prod(shape)
    return {filler.FAN_IN: fan_in, filler.FAN_OUT: fan_out, filler.AVERAGE: (fan_in + fan_out) / 2}[filler.variance_norm]
