"""Whole numbers that come as floats: labels, rows of a matrix, places of a mask."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.errors import DataError, fail

FOREIGN = -2.0**40                       # less than any label and any index


def whole_numbers(xp: Any, values: Any) -> Any:
    """The values as int64, cut off at the point as in Caffe. NaN and what no int32 holds become FOREIGN: what a cast
    makes of them differs between processors."""
    return xp.where(abs(values) < 2.0**31, values, FOREIGN).astype(np.int64)


def refuse(layer: Any, wrong: Any, values: Any, message: str, field: str) -> None:
    """Raise DataError about the layer if any of `wrong` is set. `message` may name the first one's {place} and {value}."""
    if bool(wrong.any()):
        place = int(wrong.reshape(-1).argmax())
        fail(layer.param, message.format(place=place, value=f"{float(values.reshape(-1)[place]):g}"), field, DataError)
