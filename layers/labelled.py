"""What losses over (N, C) scores with one label for each item have in common."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import item_rows
from .loss import LossLayer
from .whole_numbers import integers, refuse


class LabelledLossLayer(LossLayer):
    """Bottoms: (N, ...) values for C classes, and N labels in 0..C-1."""

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.check_batch(bottom)
        self.require(bottom[1].count == bottom[0].shape[0], f"there are {bottom[0].shape[0]} items and {bottom[1].count} labels", "bottom[1]")
        self.set_items(bottom, top, bottom[1].shape)

    def scores(self, bottom: list[Blob]) -> tuple[Any, Any]:
        """(values (N, C), 1 at each item's label and 0 elsewhere). Raises DataError for a label that is no class."""
        xp = self.device.xp
        x = bottom[0].value.read().reshape(item_rows(bottom[0].shape))
        labels = integers(bottom[1].value).reshape(-1)
        wrong = (labels < 0) | (labels >= x.shape[1])
        refuse(self, wrong, bottom[1].value, f"the label at position {{place}} of the batch is {{value}}; there are {x.shape[1]} classes", "bottom[1]")
        return x, (labels[:, None] == xp.arange(x.shape[1])[None]).astype(np.float32)
