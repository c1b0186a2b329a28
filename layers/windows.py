"""Limits of windows that slide over an image: kernels compute pixels as 32-bit ints."""
from __future__ import annotations

from typing import Any

from ..engine.errors import ShapeError

MOST = 2**31 - 1


def check_windows(layer: Any, message: str, sizes: tuple[int, ...], kernel: tuple[int, ...], stride: tuple[int, ...],
                  pad: tuple[int, ...], dilation: tuple[int, ...] | None = None) -> None:
    """Raise ShapeError, at the largest field of `message`, unless image, padding, window and stride add up to an int
    along each axis."""
    for size, k, s, p, d in zip(sizes, kernel, stride, pad, dilation or (1,) * len(kernel)):
        extents = {"pad": 2 * p, "stride": s, "kernel_size" if k >= d else "dilation": d * (k - 1) + 1}
        worst = max(extents, key=lambda name: extents[name])
        value = {"pad": p, "stride": s, "kernel_size": k, "dilation": d}[worst]
        layer.require(size + sum(extents.values()) <= MOST, f"{worst} {value} is too large: an image's side ({size} pixels), "
                      "its padding, the window and the stride must add up to less than 2^31 pixels", f"{message}.{worst}", ShapeError)
