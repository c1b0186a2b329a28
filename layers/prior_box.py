"""PriorBox: the boxes that a detection net starts from."""
from __future__ import annotations

from math import isfinite, sqrt

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, exactly, register


@register("PriorBox")
class PriorBoxLayer(Layer):
    """Boxes of some sizes and shapes at every pixel of a feature map (Liu et al., SSD, 2016, section 2.2).

        layer { name: "conv7_mbox_priorbox" type: "PriorBox" bottom: "conv7" bottom: "data" top: "conv7_mbox_priorbox"
                prior_box_param { min_size: 60 max_size: 114 aspect_ratio: 2 aspect_ratio: 3 variance: 0.1 } }

    Bottoms:  the feature map (N, C, H, W) and the image (N, C', H', W'); only their sizes are read.
    Top:      (1, 2, H W P 4): corners xmin, ymin, xmax, ymax in units of the image, then the variances. In the order of
              rows, columns, and for each min_size its square, the square of sqrt(min_size max_size), and the aspect ratios'.

    min_size, max_size       pixels of the image, their fractions cut off; one max_size for each min_size, or none.
    aspect_ratio, flip       shapes besides the square; with flip (default) also their inverses.
    step, offset             pixels of the image between centres (default: the ratio of the sizes), and the first's share of it (0.5).
    clip                     to the image, default false.      variance   one or four, default 0.1.
    """

    bottoms, in_place, reads_values = exactly(2), False, False

    def may_force_backward(self, bottom: int) -> bool:
        return False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, field = self.param.prior_box_param, "prior_box_param"
        self.require(p.min_size, "min_size must be given", field)
        for name in ("min_size", "max_size", "aspect_ratio", "variance", "step", "step_h", "step_w", "offset"):
            values = getattr(p, name)
            self.require(all(map(isfinite, values if hasattr(values, "__len__") else [values])), f"{name} must be finite, found {values}", f"{field}.{name}")
        self.require(len(p.max_size) in (0, len(p.min_size)), f"max_size is given for each of the {len(p.min_size)} min_size or not at all, found {len(p.max_size)}", f"{field}.max_size")
        self.require(all(s > 0 for s in p.min_size), "min_size must be more than 0", f"{field}.min_size")
        self.require(all(a < b for a, b in zip(p.min_size, p.max_size)), "max_size must be more than its min_size", f"{field}.max_size")
        self.require(len(p.variance) in (0, 1, 4) and all(v > 0 for v in p.variance), f"variance is given once or four times, and more than 0; found {list(p.variance)}", f"{field}.variance")
        self.require(not (p.HasField("img_size") and (p.HasField("img_h") or p.HasField("img_w"))), "img_size excludes img_h and img_w", f"{field}.img_size")
        self.require(not (p.HasField("step") and (p.HasField("step_h") or p.HasField("step_w"))), "step excludes step_h and step_w", f"{field}.step")
        ratios = [1.0]
        for ratio in p.aspect_ratio:
            self.require(ratio > 0, f"aspect_ratio must be more than 0, found {ratio:g}", f"{field}.aspect_ratio")
            if all(abs(ratio - r) >= 1e-6 for r in ratios):
                ratios += [ratio, 1 / ratio] if p.flip else [ratio]
        self.sizes: list[tuple[float, float]] = []                         # (width, height) of each prior, pixels of the image
        for i, least in enumerate(int(s) for s in p.min_size):
            self.sizes.append((least, least))
            if p.max_size:
                self.sizes.append((sqrt(least * int(p.max_size[i])),) * 2)
            self.sizes += [(least * sqrt(r), least / sqrt(r)) for r in ratios[1:]]

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, shape, image = self.param.prior_box_param, bottom[0].shape, bottom[1].shape
        self.require(len(shape) == 4 and len(image) == 4, f"needs a feature map and an image of four axes each, found {shape} and {image}", "bottom")
        height, width = shape[2:]
        top[0].reshape(1, 2, height * width * len(self.sizes) * 4)
        size_h, size_w = (p.img_size or p.img_h or image[2], p.img_size or p.img_w or image[3])
        self.require(size_h and size_w, f"the image needs pixels, found {image}", "bottom[1]")
        step_h, step_w = (p.step or p.step_h or size_h / max(height, 1), p.step or p.step_w or size_w / max(width, 1))
        if self.dry:
            return
        x, y = (np.arange(width) + p.offset) * step_w, (np.arange(height) + p.offset) * step_h
        centers = np.stack(np.broadcast_arrays(x[None, :, None], y[:, None, None]), -1)                   # (H, W, 1, 2)
        half = np.array(self.sizes) / 2
        boxes = np.concatenate([centers - half, centers + half], -1) / [size_w, size_h, size_w, size_h]    # (H, W, P, 4)
        if p.clip:
            boxes = boxes.clip(0, 1)
        variances = np.broadcast_to(list(p.variance) or [0.1], (boxes.size // 4, 4))
        self.boxes = self.device.xp.asarray(np.stack([boxes.reshape(-1), variances.reshape(-1)])[None].astype(np.float32))

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].value.write()[...] = self.boxes

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        for blob, down in zip(bottom, propagate_down):
            if down:
                blob.gradient.clear()                                      # only sizes were read
