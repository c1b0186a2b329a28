"""StochasticDepth: branches of a residual net that are left out at random while training."""
from __future__ import annotations

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, register
from ..engine.memory import Memory
from ..engine.random import words
from ..proto import brew_pb2 as pb


@register("StochasticDepth")
class StochasticDepthLayer(Layer):
    """In TRAIN the branch is kept with the probability `survival`, else zero; in TEST it is multiplied by it
    (Huang et al., Deep networks with stochastic depth, 2016). An Eltwise layer adds the shortcut to it.

        layer { name: "drop" type: "StochasticDepth" bottom: "branch" top: "branch" stochastic_depth_param { survival: 0.5 block: 3 blocks: 54 } }

    Bottom, top:  (N, ...)

    survival        default 0.5.
    block, blocks   this block's number l of L: it survives with 1 - l / L (1 - survival), equation 4 of the paper.
    per_item        a draw for each of the N items; default false: one for the batch.

    What is drawn is a function of (seed, layer name, how many forwards before).
    """

    counter = "forwards"
    backward_uses, keeps_sign = (), True

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.stochastic_depth_param
        field = "stochastic_depth_param"
        self.require(0 < p.survival <= 1, f"survival is more than 0 and at most 1, found {p.survival:g}", f"{field}.survival")
        self.require(p.HasField("block") == p.HasField("blocks"), "block and blocks go together", field)
        self.survival = p.survival
        if p.HasField("block"):
            self.require(1 <= p.block <= p.blocks, f"block counts from 1 to blocks, found {p.block} of {p.blocks}", f"{field}.block")
            self.survival = 1 - p.block / p.blocks * (1 - p.survival)
        self.forwards = 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.items(bottom[0])
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        n = bottom[0].shape[0]
        if self.phase == pb.TRAIN:
            self.forwards += 1
            draws = 1 if not self.param.stochastic_depth_param.per_item else n
            kept = words(self.seed, self.name, self.forwards, draws) < self.survival * 2**32
            factors = np.broadcast_to(kept.astype(np.float32), n).copy()
        else:
            factors = np.full(n, self.survival, np.float32)
        self.factors = self.device.xp.asarray(factors)
        self._scale(bottom[0].value, top[0].value)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            self._scale(top[0].gradient, bottom[0].gradient)

    def _scale(self, source: Memory, target: Memory) -> None:
        """In whichever layout: the items come first in all of them."""
        layout, n = source.layout, len(self.factors)
        x = source.read(layout)
        self.k.scale_forward(x, self.factors, None, target.write(layout), (1, n, x.size // max(n, 1), 1, n))
