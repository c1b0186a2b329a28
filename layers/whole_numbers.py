"""Whole numbers that come as floats: labels, rows of a matrix, places of a mask."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..engine.errors import DataError, fail
from ..engine.memory import Memory
from ..engine.store import INT32

FOREIGN = -2.0**40                       # less than any label and any index


def whole_numbers(xp: Any, values: Any) -> Any:
    """The values as int64, cut off at the point as in Caffe. NaN and what no int32 holds become FOREIGN: what a cast
    makes of them differs between processors."""
    return xp.where(abs(values) < 2.0**31, values, FOREIGN).astype(np.int64)


def integers(memory: Memory) -> Any:
    """A blob's values as int32, made once for all layers that read it; what no int32 holds, and NaN, as NO_INT."""
    return memory.read_as(INT32)


def refuse(layer: Any, wrong: Any, values: Any, message: str, field: str) -> None:
    """Raise DataError about the layer if any of `wrong` is set. `message` may name the first one's {place} and {value};
    `values` are an array or a Memory."""
    if bool(wrong.any()):
        values = values.read() if isinstance(values, Memory) else values
        place = int(wrong.reshape(-1).argmax())
        fail(layer.param, message.format(place=place, value=f"{float(values.reshape(-1)[place]):g}"), field, DataError)
