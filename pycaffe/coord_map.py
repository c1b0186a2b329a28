"""caffe.coord_map: how the coordinates of NetSpec's tops map to each other, and Crop layers that align them."""
from __future__ import annotations

from typing import Any

import numpy as np

from ..tools.coordinates import PASS_THROUGH_LAYERS as PASS_THROUGH_LAYERS
from ..tools.coordinates import AxisMismatchException as AxisMismatchException
from ..tools.coordinates import UndefinedMapException as UndefinedMapException
from ..tools.coordinates import compose as compose
from ..tools.coordinates import conv_params as conv_params
from ..tools.coordinates import coord_map as coord_map
from ..tools.coordinates import coord_map_from_to as coord_map_from_to
from ..tools.coordinates import crop_params as crop_params
from ..tools.coordinates import inverse as inverse
from . import net_spec


class ImpossibleCropException(AssertionError):
    """For blobs that no crop aligns."""


def crop(top_from: Any, top_to: Any) -> Any:
    """A Crop layer that aligns `top_from` with `top_to`. Raises ImpossibleCropException if scales differ, or the offset
    is negative or no whole number."""
    axis, a, b = coord_map_from_to(top_from, top_to)
    if not np.all(np.asarray(a) == 1):
        raise ImpossibleCropException(f"a crop cannot change the scale, which is {a}")
    if not np.all(np.asarray(b) <= 0):
        raise ImpossibleCropException(f"a crop cannot pad: the offset would be {-np.asarray(b)}")
    if not np.all(np.round(b) == b):
        raise ImpossibleCropException(f"a crop takes whole pixels: the offset would be {-np.asarray(b)}")
    return net_spec.layers.Crop(top_from, top_to, crop_param=dict(axis=axis + 1, offset=[int(v) for v in np.atleast_1d(-np.round(b))]))
