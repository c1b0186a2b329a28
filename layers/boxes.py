"""Arithmetic of boxes that SSD's layers share: overlaps, and boxes as offsets from priors. Arrays are (..., 4): xmin, ymin, xmax, ymax."""
from __future__ import annotations

from typing import Any

from ..proto import brew_pb2 as pb

CORNER, CENTER_SIZE, CORNER_SIZE = (getattr(pb.PriorBoxParameter, n) for n in ("CORNER", "CENTER_SIZE", "CORNER_SIZE"))


def overlaps(xp: Any, a: Any, b: Any) -> Any:
    """Intersection over union of each box of a (n, 4) with each of b (m, 4): (n, m)."""
    low, high = xp.maximum(a[:, None, :2], b[None, :, :2]), xp.minimum(a[:, None, 2:], b[None, :, 2:])
    both = xp.maximum(high - low, 0).prod(2)
    total = areas(xp, a)[:, None] + areas(xp, b)[None] - both
    return xp.where(both > 0, both / xp.maximum(total, 1e-12), 0)


def areas(xp: Any, boxes: Any) -> Any:
    return xp.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(-1)


def centers(boxes: Any) -> tuple[Any, Any]:
    """(centres, sizes), (..., 2) each."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]


def decode(xp: Any, offsets: Any, priors: Any, variances: Any, code: int) -> Any:
    """The boxes that a net's offsets from the priors mean; variances: (..., 4), or 1 where the offsets contain them."""
    d = offsets * variances
    if code == CORNER:
        return priors + d
    center, size = centers(priors)
    if code == CORNER_SIZE:
        return priors + d * xp.concatenate([size, size], -1)
    middle, half = d[..., :2] * size + center, xp.exp(d[..., 2:]) * size / 2
    return xp.concatenate([middle - half, middle + half], -1)


def encode(xp: Any, boxes: Any, priors: Any, variances: Any, code: int) -> Any:
    """The offsets that mean these boxes: the inverse of decode."""
    if code == CORNER:
        return (boxes - priors) / variances
    center, size = centers(priors)
    if code == CORNER_SIZE:
        return (boxes - priors) / xp.concatenate([size, size], -1) / variances
    middle, extent = centers(boxes)
    return xp.concatenate([(middle - center) / size, xp.log(extent / size)], -1) / variances


def read_priors(blob: Any) -> tuple[Any, Any]:
    """(boxes, variances), (P, 4) each, of a PriorBox layer's top (1, 2, P * 4)."""
    values = blob.value.read().reshape(2, -1, 4)
    return values[0], values[1]
