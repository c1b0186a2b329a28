"""DummyData: blobs from fillers, to try a net without data."""
from __future__ import annotations

from ..engine.blob import Blob
from ..engine.fillers import fill
from ..engine.layer import Layer, at_least, exactly, register
from ..engine.random import Random
from ..engine.resources import check_memory
from ..proto import brew_pb2 as pb


@register("DummyData")
class DummyDataLayer(Layer):
    """Tops filled by fillers: constants once, everything else anew at each forward.

        layer { name: "data" type: "DummyData" top: "data" top: "label"
                dummy_data_param { shape { dim: 8 dim: 3 dim: 32 dim: 32 } shape { dim: 8 }
                                   data_filler { type: "gaussian" } data_filler { value: 1 } } }

    data_filler   none (zeros), one for all tops, or one for each.
    shape         one for all tops, or one for each; num, channels, height, width are its old form.
    """

    bottoms, tops = exactly(0), at_least(1)
    counter = "draws"

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, n = self.param.dummy_data_param, len(top)
        old = [list(getattr(p, f)) for f in ("num", "channels", "height", "width")]
        self.require(not (p.shape and any(old)), "shape excludes num, channels, height and width", "dummy_data_param.shape")
        if p.shape:
            shapes = [tuple(s.dim) for s in p.shape]
        else:
            self.require(all(len(v) in (1, n) for v in old), f"a shape, or num, channels, height and width, is given once or for each of the {n} tops", "dummy_data_param")
            shapes = [tuple(v[i if len(v) > 1 else 0] for v in old) for i in range(n)]
        self.require(len(shapes) in (1, n), f"shape is given once, or for each of the {n} tops; found {len(shapes)}", "dummy_data_param.shape")
        fillers = list(p.data_filler) or [pb.FillerParameter()]
        self.require(len(fillers) in (1, n), f"data_filler is given once, for each of the {n} tops, or not at all; found {len(fillers)}", "dummy_data_param.data_filler")
        self.fillers = fillers * n if len(fillers) == 1 else fillers
        self.draws = 0
        for i, blob in enumerate(top):
            blob.reshape(*shapes[i if len(shapes) > 1 else 0])
            self._fill(i, blob)

    def _fill(self, i: int, blob: Blob) -> None:
        if not blob.count:
            return
        check_memory(self.param, 4 * blob.count, f"top {i} of shape {blob.shape}")
        values = fill(blob.shape, self.fillers[i], Random(self.seed, f"{self.name}/top{i}", self.draws << 2), self.param)
        blob.value.write()[...] = self.device.xp.asarray(values)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.draws += 1
        for i, blob in enumerate(top):
            if self.fillers[i].type != "constant":
                self._fill(i, blob)
