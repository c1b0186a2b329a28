"""Dropout: values set to zero at random while training."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.layer import Layer, register
from ..engine.random import stream
from ..proto import brew_pb2 as pb


@register("Dropout")
class DropoutLayer(Layer):
    """In TRAIN each value is zero with probability dropout_ratio, else divided by 1 - dropout_ratio; in TEST untouched.

        layer { name: "drop6" type: "Dropout" bottom: "fc6" top: "fc6" dropout_param { dropout_ratio: 0.5 } }

    Bottom, top:  any shape. Srivastava et al., JMLR 15 (2014).
    dropout_ratio   in [0, 1).
    scale_train     default true; false: TRAIN does not scale, and TEST multiplies by 1 - dropout_ratio.

    The mask is a function of (seed, layer name, how many forwards before, element): it is not stored, backward draws it again.
    """

    counter = "forwards"
    backward_uses, keeps_sign = (), True

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.dropout_param
        self.require(0 <= p.dropout_ratio < 1, f"dropout_ratio must be at least 0 and less than 1, found {p.dropout_ratio:g}", "dropout_param.dropout_ratio")
        self.keep = 1 - p.dropout_ratio
        self.threshold = int(p.dropout_ratio * 2**32)
        self.train_scale, self.test_scale = (1 / self.keep, 1.0) if p.scale_train else (1.0, self.keep)
        self.forwards = 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        if self.phase == pb.TRAIN:
            self.forwards += 1
        self._apply(bottom[0].value, top[0].value)

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if propagate_down[0]:
            self._apply(top[0].gradient, bottom[0].gradient)

    def _apply(self, source: object, target: object) -> None:
        x = source.read()                                          # type: ignore[attr-defined]
        if self.phase == pb.TRAIN:
            self.k.dropout(x, target.write(), self.seed, stream(self.name, self.forwards), self.threshold, self.train_scale)  # type: ignore[attr-defined]
        elif source is not target or self.test_scale != 1:
            self.k.linear(x, self.test_scale, target.write(), 0.0)  # type: ignore[attr-defined]
