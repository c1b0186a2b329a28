"""Pooling: the largest or the mean value of a sliding window."""
from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, between, pair, register
from ..engine.layout import PLAIN, grid_of, laid_out
from ..engine.random import stream
from ..proto import brew_pb2 as pb
from .windows import check_windows


@register("Pooling")
class PoolingLayer(Layer):
    """The largest (MAX), the mean (AVE) or a random (STOCHASTIC) value in a window that slides over each channel.

        layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
                pooling_param { pool: MAX kernel_size: 3 stride: 2 } }

    Bottom:  (N, C, H, W)
    Top:     (N, C, H', W') with H' = ceil((H + 2 pad - kernel) / stride) + 1, likewise W' (floor with round_mode: FLOOR),
             less one if there is padding and that window would start beyond it;
             MAX only, second top: where each maximum was, row * W + column.

    kernel_size      pixels, > 0; or kernel_h and kernel_w. Required unless global_pooling.
    stride, pad      pixels, default 1 and 0; pad must be < kernel_size.
    global_pooling   the window is the whole image.

    STOCHASTIC (Zeiler and Fergus 2013) is for values that are not negative: in TRAIN each window gives one of its values,
    with a probability in proportion to it, and that one gets the gradient; in TEST their mean, each weighted by itself.
    It goes without padding. (In Caffe it runs on the GPU only.)

    Of equal values the first wins, and alone gets the gradient. AVE divides by the window's size including its padding,
    but not what hangs over the far edge, as Caffe does. A window without pixels (stride > kernel and rounding up) gives
    -FLT_MAX for MAX, as in Caffe, with no gradient (Caffe writes outside the blob), and 0 for AVE (Caffe gives NaN).
    """

    tops = between(1, 2)
    in_place = False
    backward_uses = ()
    counter = "forwards"                 # of random draws; stays 0 for MAX and AVE

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.pooling_param
        self.max, self.stochastic = p.pool == p.MAX, p.pool == p.STOCHASTIC
        self.forwards = 0
        self.require(self.max or len(top) == 1, "only pool: MAX has a second top", "top")
        self.whole = p.global_pooling
        if self.whole:
            self.require(not any(p.HasField(f) for f in ("kernel_size", "kernel_h", "kernel_w")), "global_pooling takes the whole image as its window: leave the kernel out", "pooling_param.global_pooling")
            self.kernel = (1, 1)
        else:
            self.kernel = pair(self, p, "pooling_param", "kernel_size", "kernel_h", "kernel_w", None)
        self.stride = pair(self, p, "pooling_param", "stride", "stride_h", "stride_w", 1)
        self.pad = pair(self, p, "pooling_param", "pad", "pad_h", "pad_w", 0)
        self.require(all(k > 0 for k in self.kernel), f"kernel_size must be more than 0, found {self.kernel}", "pooling_param.kernel_size")
        self.require(all(s > 0 for s in self.stride), f"stride must be more than 0, found {self.stride}", "pooling_param.stride")
        self.require(not self.whole or (self.pad, self.stride) == ((0, 0), (1, 1)), "global_pooling goes with pad 0 and stride 1", "pooling_param.global_pooling")
        self.require(not self.stochastic or self.pad == (0, 0), f"pool: STOCHASTIC goes without padding, found pad {self.pad}", "pooling_param.pad")
        self.require(self.whole or all(a < k for a, k in zip(self.pad, self.kernel)), f"pad must be smaller than the kernel, found pad {self.pad} and kernel {self.kernel}", "pooling_param.pad")

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.require(len(bottom[0].shape) == 4, f"pools images (N, C, H, W); the bottom's shape is {bottom[0].shape}", "bottom")
        n, c, h, w = bottom[0].shape
        kernel = (h, w) if self.whole else self.kernel
        check_windows(self, "pooling_param", (h, w), kernel, self.stride, self.pad)
        floor = self.param.pooling_param.round_mode == pb.PoolingParameter.FLOOR
        out = tuple(pooled(*axis, floor, any(self.pad)) for axis in zip((h, w), kernel, self.stride, self.pad))
        self.require(all(o > 0 for o in out), f"the window {kernel} does not fit into the image ({h}, {w}) with pad {self.pad}", "pooling_param")
        for blob in top:
            blob.reshape(n, c, *out)
        self.window = (h, w, *out, *kernel, *self.stride, *self.pad)
        self.empty_windows = any((o - 1) * s - p >= size for size, o, s, p in zip((h, w), out, self.stride, self.pad))
        self.winner: Any = None                                    # row * W + column of each maximum, as large as the top

    def blocks(self, bottom: Blob) -> Any:
        """The bottom's layout; of a plain one (after LRN, say) the blocks that the engine's convolutions take, in which windows
        are pooled many channels at a time."""
        layout, lanes = bottom.value.layout, self.device.lanes
        return laid_out(bottom.shape, lanes) if layout is PLAIN and lanes > 1 and bottom.shape[1] % lanes == 0 else layout

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        layout = PLAIN if self.stochastic else self.blocks(bottom[0])
        if self.empty_windows and layout is not PLAIN and layout.padded:
            layout = PLAIN                                         # they would write -FLT_MAX into the padding
        self.top_layout = layout if layout is PLAIN else layout.like(top[0].shape)
        outer, blocks, _, lanes, _ = grid_of(self.top_layout, top[0].shape)
        x, y = bottom[0].value.read(layout), top[0].value.write(self.top_layout)
        if self.stochastic and self.phase == pb.TEST:
            self.k.stochastic_pool_test(x, y, outer * blocks, self.window)
            return
        if not self.max and not self.stochastic:
            self.k.ave_pool_forward(x, y, outer * blocks, lanes, self.window)
            return
        if self.max and len(top) == 1 and not self.runs_backward:
            self.winner = None
        elif self.winner is None or self.winner.size != y.size:
            self.winner = self.device.empty(y.size, np.int32)
        if self.stochastic:
            self.forwards += 1
            self.k.stochastic_pool_train(x, y, self.winner, self.seed, stream(self.name, self.forwards), outer * blocks, self.window)
            return
        self.k.max_pool_forward(x, y, self.winner, outer * blocks, lanes, self.window)
        if len(top) > 1:
            mask = self.winner.astype(np.float32)
            top[1].value.write(self.top_layout)[...] = mask.reshape(top[1].shape) if layout is PLAIN else mask

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        if not propagate_down[0]:
            return
        outer, blocks, _, lanes, _ = grid_of(self.top_layout, top[0].shape)
        layout = PLAIN if self.top_layout is PLAIN else self.top_layout.like(bottom[0].shape)
        dy, dx = top[0].gradient.read(self.top_layout), bottom[0].gradient.write(layout)
        self.require(not self.stochastic or self.phase == pb.TRAIN, "pool: STOCHASTIC has a gradient in TRAIN only", "pooling_param.pool")
        if self.max or self.stochastic:
            self.k.max_pool_backward(dy, self.winner, dx, outer * blocks, lanes, self.window)
        else:
            self.k.ave_pool_backward(dy, dx, outer * blocks, lanes, self.window)


def pooled(size: int, kernel: int, stride: int, pad: int, floor: bool = False, padded: bool = False) -> int:
    """Windows along an axis of `size` pixels: Caffe rounds up, and with padding the last one must start inside."""
    steps = (size + 2 * pad - kernel) / stride
    out = int(steps // 1 if floor else ceil(steps)) + 1
    return out - 1 if padded and (out - 1) * stride >= size + pad else out
