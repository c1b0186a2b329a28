"""The GPU's kernels under the names and arguments of `kernels.cpu`, and the libraries they run through.

Arrays are plain. The sources are kernels/cuda/*.cu, compiled at first use; tests run the same sources on the CPU.
"""
from __future__ import annotations

from functools import cache
from hashlib import sha256
from importlib.resources import files
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from .gpu_sparse import SparseKernels

BLOCK = 256                                      # threads of a block
BLOCKS = 65535                                   # at most so many; threads then take several elements
CUDA, INCLUDE = files(__package__) / "cuda", files(__package__) / "include"
FUNCTIONS = frozenset("absval bnll clip elu exponential logarithm power swish threshold".split())    # of kernels/include/neuron.h
MAX_AXES = 6                                     # of a ConvShape, kernels/include/im2col.h


class CupyBackend:
    """A GPU by way of CuPy. Raises ImportError without CuPy, RuntimeError without a usable GPU."""

    def __init__(self, device_id: int):
        import cupy
        try:
            self.device = cupy.cuda.Device(device_id)
            self.device.compute_capability
        except cupy.cuda.runtime.CUDARuntimeError as e:
            raise RuntimeError(str(e)) from None
        self.xp = cupy

    def enter(self) -> None:
        self.device.use()

    def synchronize(self) -> None:
        self.device.synchronize()

    def module(self, path: str) -> Any:
        """The kernels of a source file, which may include brew's headers and those beside it.

        CuPy keeps compiled kernels on disk by the source's text and the options, and does not look into what the source
        includes. The text therefore ends with a hash of the headers: after an upgrade that changes only these, kernels are
        compiled again.
        """
        folders = [str(INCLUDE), str(CUDA), str(Path(path).parent)]
        headers = sha256(b"".join(file.read_bytes() for folder in folders for file in sorted(Path(folder).glob("*.*h"))))
        code = Path(path).read_text(encoding="utf-8") + f"\n// headers: {headers.hexdigest()}\n"
        return self.xp.RawModule(code=code, options=("--std=c++17", *(f"-I{folder}" for folder in folders)))

    def gemm(self, ta: bool, tb: bool, rows: int, cols: int, inner: int, a: Any, b: Any, c: Any, beta: float) -> None:
        """c = a b + beta c, row-major, by cuBLAS."""
        a = a.reshape(inner, rows).T if ta else a.reshape(rows, inner)
        b = b.reshape(cols, inner).T if tb else b.reshape(inner, cols)
        c = c.reshape(rows, cols)
        if beta == 0:
            self.xp.matmul(a, b, out=c)
        else:
            c *= self.xp.float32(beta)
            c += self.xp.matmul(a, b)


class Kernels(SparseKernels):
    """Calls of the CUDA kernels. Names and arguments as in kernels.cpu; grids are (outer, channels, spatial, 1, channels)."""

    def __init__(self, backend: Any):
        self.backend, self.xp = backend, backend.xp
        self.module = cache(lambda stem: backend.module(str(CUDA / f"{stem}.cu")))
        self.ints = cache(lambda values: self.xp.asarray(np.array(values, np.int32)))

    def run(self, stem: str, name: str, blocks: int, *args: Any) -> None:
        """Launch a kernel, unless there are no blocks. Python ints become int, floats float; None is a null pointer."""
        if not blocks:
            return
        null = None if self.xp is np else np.uint64(0)
        fixed = tuple(np.int32(a) if isinstance(a, (bool, int)) else np.float32(a) if isinstance(a, float) else null if a is None else a for a in args)
        self.module(stem).get_function(name)((blocks,), (BLOCK,), fixed)

    def each(self, stem: str, name: str, n: int, *args: Any) -> None:
        """Launch a kernel with a thread for each of n elements; n is its last argument."""
        if n:
            self.run(stem, name, min(-(-n // BLOCK), BLOCKS), *args, np.int64(n))

    # ------------------------------------------------------------------------------------------------------- neurons

    def relu_forward(self, x: Any, y: Any, slope: float) -> None:
        self.each("neuron", "relu_forward", x.size, x, y, float(slope))

    def relu_backward(self, y: Any, dy: Any, dx: Any, slope: float) -> None:
        self.each("neuron", "relu_backward", y.size, y, dy, dx, float(slope))

    def sigmoid_forward(self, x: Any, y: Any) -> None:
        self.each("neuron", "sigmoid_forward", x.size, x, y)

    def sigmoid_backward(self, y: Any, dy: Any, dx: Any) -> None:
        self.each("neuron", "sigmoid_backward", y.size, y, dy, dx)

    def tanh_forward(self, x: Any, y: Any) -> None:
        self.each("neuron", "tanh_forward", x.size, x, y)

    def tanh_backward(self, y: Any, dy: Any, dx: Any) -> None:
        self.each("neuron", "tanh_backward", y.size, y, dy, dx)

    def dropout(self, x: Any, y: Any, key: int, stream: int, threshold: int, scale: float) -> None:
        self.each("neuron", "dropout", x.size, x, y, np.uint64(key), np.uint64(stream), np.uint32(threshold), float(scale))

    def __getattr__(self, name: str) -> Any:
        """NAME_forward and NAME_backward of the functions with three constants, which are all launched alike."""
        function, _, direction = name.rpartition("_")
        if function not in FUNCTIONS or direction not in ("forward", "backward"):
            raise AttributeError(name)
        return lambda *args: self.each("neuron", name, args[0].size, *args[:-3], *map(float, args[-3:]))

    def prelu_forward(self, x: Any, slope: Any, y: Any, grid: Any) -> None:
        self.each("neuron", "prelu_forward", x.size, x, slope, y, grid[1], grid[2])

    def prelu_backward(self, x: Any, slope: Any, dy: Any, dx: Any, grid: Any) -> None:
        self.each("neuron", "prelu_backward", x.size, x, slope, dy, dx, grid[1], grid[2])

    def prelu_slopes(self, x: Any, dy: Any, dslope: Any, grid: Any) -> None:
        outer, channels, spatial, *_ = grid
        self.run("neuron", "prelu_slopes", channels, x, dy, dslope, outer, channels, spatial)

    # ------------------------------------------------------------------------------------------------------- eltwise

    def linear(self, x: Any, a: float, y: Any, b: float) -> None:
        self.each("eltwise", "linear", x.size, x, float(a), y, float(b))

    def add(self, x: Any, a: float, z: Any, b: float, y: Any, cut: bool) -> None:
        self.each("eltwise", "add", x.size, x, float(a), z, float(b), y, cut)

    def add_backward(self, y: Any, dy: Any, a: float, dx: Any, b: float, dz: Any) -> None:
        self.each("eltwise", "add_backward", dy.size, y, dy, float(a), dx, float(b), dz)

    def multiply(self, x: Any, y: Any, z: Any) -> None:
        self.each("eltwise", "multiply", x.size, x, y, z)

    def divide(self, x: Any, y: Any, z: Any) -> None:
        self.each("eltwise", "divide", x.size, x, y, z)

    def maximum(self, x: Any, y: Any, winner: Any, index: int) -> None:
        self.each("eltwise", "maximum", x.size, x, y, winner, index)

    def maximum_backward(self, dy: Any, winner: Any, index: int, dx: Any) -> None:
        self.each("eltwise", "maximum_backward", dy.size, dy, winner, index, dx)

    def add_rows(self, x: Any, index: Any, y: Any, columns: int) -> None:
        self.each("eltwise", "add_rows", x.size, x, index, y, int(index.size), columns)

    def normalize(self, x: Any, crops: Any, mean: Any, scale: float, y: Any, channels: int, out_h: int, out_w: int,
                  height: int, width: int) -> None:
        to = self.xp.asarray
        self.each("eltwise", "normalize", x.size, x, to(crops), to(mean), float(scale), y, int(mean.size), channels,
                  out_h, out_w, height, width)

    def copy_rows(self, x: Any, y: Any, outer: int, n: int, at: int, to: int) -> None:
        if outer and n:
            y.reshape(outer, -1)[:, to:to + n] = x.reshape(outer, -1)[:, at:at + n]

    # ------------------------------------------------------------------------------------------------------- pooling

    def max_pool_forward(self, x: Any, y: Any, winner: Any, planes: int, lanes: int, shape: Any) -> None:
        self.each("pooling", "max_pool_forward", y.size, x, y, winner, self.ints(tuple(shape)))

    def max_pool_backward(self, dy: Any, winner: Any, dx: Any, planes: int, lanes: int, shape: Any) -> None:
        self.each("pooling", "max_pool_backward", dx.size, dy, winner, dx, self.ints(tuple(shape)))

    def stochastic_pool_train(self, x: Any, y: Any, winner: Any, key: int, stream: int, planes: int, shape: Any) -> None:
        self.each("pooling", "stochastic_pool_train", y.size, x, y, winner, np.uint64(key), np.uint64(stream), self.ints(tuple(shape)))

    def stochastic_pool_test(self, x: Any, y: Any, planes: int, shape: Any) -> None:
        self.each("pooling", "stochastic_pool_test", y.size, x, y, self.ints(tuple(shape)))

    def ave_pool_forward(self, x: Any, y: Any, planes: int, lanes: int, shape: Any) -> None:
        self.each("pooling", "ave_pool_forward", y.size, x, y, self.ints(tuple(shape)))

    def ave_pool_backward(self, dy: Any, dx: Any, planes: int, lanes: int, shape: Any) -> None:
        self.each("pooling", "ave_pool_backward", dx.size, dy, dx, self.ints(tuple(shape)))

    # ----------------------------------------------------------------------------------------------------------- LRN

    def lrn_across_forward(self, x: Any, s: Any, y: Any, outer: int, channels: int, inner: int, size: int, alpha: float, beta: float, k: float) -> None:
        self.each("lrn", "lrn_across_forward", x.size, x, s, y, channels, inner, size, alpha, beta, k)

    def lrn_across_backward(self, x: Any, s: Any, y: Any, dy: Any, dx: Any, outer: int, channels: int, inner: int, size: int, alpha: float, beta: float) -> None:
        self.each("lrn", "lrn_across_backward", x.size, x, s, y, dy, dx, channels, inner, size, alpha, beta)

    def lrn_within_forward(self, x: Any, s: Any, y: Any, alpha: float, beta: float) -> None:
        self.each("lrn", "lrn_within_forward", x.size, x, s, y, alpha, beta)

    def lrn_within_ratio(self, y: Any, s: Any, dy: Any, r: Any) -> None:
        self.each("lrn", "lrn_within_ratio", y.size, y, s, dy, r)

    def lrn_within_backward(self, x: Any, s: Any, dy: Any, r: Any, dx: Any, alpha: float, beta: float) -> None:
        self.each("lrn", "lrn_within_backward", x.size, x, s, dy, r, dx, alpha, beta)

    # ----------------------------------------------------------------------------------------- batch norm and scales

    def channel_moments(self, x: Any, mean: Any, var: Any, eps: float, inverse: Any, grid: Any) -> None:
        outer, channels, spatial, *_ = grid
        self.run("batch_norm", "channel_moments", channels, x, mean, var, float(eps), inverse, outer, channels, spatial)

    def inverse_deviation(self, var: Any, eps: float, inverse: Any) -> None:
        self.each("batch_norm", "inverse_deviation", var.size, var, float(eps), inverse)

    def absorb_moments(self, mean: Any, var: Any, unbiased: float, fraction: float, means: Any, vars: Any, count: Any) -> None:
        self.each("batch_norm", "absorb_moments", mean.size, mean, var, float(unbiased), float(fraction), means, vars, count)

    def normalize_forward(self, x: Any, mean: Any, inverse: Any, y: Any, normal: Any, grid: Any) -> None:
        self.each("batch_norm", "normalize_forward", x.size, x, mean, inverse, y, normal, grid[1], grid[2])

    def normalize_backward(self, y: Any, dy: Any, inverse: Any, dx: Any, grid: Any) -> None:
        outer, channels, spatial, *_ = grid
        self.run("batch_norm", "normalize_backward", channels, y, dy, inverse, dx, outer, channels, spatial)

    def scale_forward(self, x: Any, scale: Any, bias: Any, y: Any, grid: Any) -> None:
        self.each("batch_norm", "scale_forward", x.size, x, scale, bias, y, grid[1], grid[2])

    def scale_gradients(self, x: Any, dy: Any, dscale: Any, dbias: Any, grid: Any) -> None:
        outer, channels, spatial, *_ = grid
        self.run("batch_norm", "scale_gradients", channels, x if dscale is not None else None, dy, dscale, dbias, outer, channels, spatial)

    def bn_forward(self, x: Any, mean: Any, inverse: Any, scale: Any, shift: Any, normal: Any, y: Any, relu: bool, grid: Any) -> None:
        self.each("batch_norm", "bn_forward", x.size, x, mean, inverse, scale, shift, normal, y, relu, grid[1], grid[2])

    def bn_backward(self, y: Any, normal: Any, dy: Any, scale: Any, inverse: Any, dscale: Any, dshift: Any, dx: Any, grid: Any) -> None:
        outer, channels, spatial, *_ = grid
        self.run("batch_norm", "bn_backward", channels, y, normal, dy, scale, inverse, dscale, dshift, dx, outer, channels, spatial)

    # ------------------------------------------------------------------------------------------------------- softmax

    def softmax_forward(self, x: Any, y: Any, outer: int, classes: int, inner: int) -> None:
        self.each("softmax", "softmax_forward", outer * inner, x, y, classes, inner)

    def softmax_backward(self, y: Any, dy: Any, dx: Any, outer: int, classes: int, inner: int) -> None:
        self.each("softmax", "softmax_backward", outer * inner, y, dy, dx, classes, inner)

    def cross_entropy_forward(self, p: Any, label: Any, each: Any, outer: int, classes: int, inner: int, has_ignore: bool, ignore: int, smoothing: float) -> tuple[int, int]:
        n = outer * inner
        state = self.xp.empty(n, np.int32)
        self.each("softmax", "cross_entropy_forward", n, p, label, each, state, classes, inner, has_ignore, ignore, float(smoothing))
        bad = state < 0
        return int((state > 0).sum()), int(bad.argmax()) if bool(bad.any()) else -1

    def cross_entropy_backward(self, p: Any, label: Any, weights: Any, dx: Any, outer: int, classes: int, inner: int, has_ignore: bool, ignore: int, smoothing: float, weight: float) -> int:
        """Always -1: where a label is out of range, the gradient is NaN."""
        self.each("softmax", "cross_entropy_backward", outer * inner, p, label, weights, dx, classes, inner, has_ignore, ignore, float(smoothing), float(weight))
        return -1

    # ------------------------------------------------------------------------------------- regions, boxes, sequences

    def roi_pool_forward(self, x: Any, rois: Any, y: Any, winner: Any, scale: float, shape: Any) -> None:
        self.each("regions", "roi_pool_forward", y.size, x, rois, y, winner, scale, self.ints(tuple(shape)))

    def roi_pool_backward(self, dy: Any, rois: Any, winner: Any, dx: Any, scale: float, shape: Any) -> None:
        self.each("regions", "roi_pool_backward", dx.size, dy, rois, winner, dx, scale, self.ints(tuple(shape)))

    def psroi_pool_forward(self, x: Any, rois: Any, y: Any, scale: float, shape: Any) -> None:
        self.each("regions", "psroi_pool_forward", y.size, x, rois, y, scale, self.ints(tuple(shape)))

    def psroi_pool_backward(self, dy: Any, rois: Any, dx: Any, scale: float, shape: Any) -> None:
        self.each("regions", "psroi_pool_backward", dx.size, dy, rois, dx, scale, self.ints(tuple(shape)))

    def roi_align_forward(self, x: Any, rois: Any, y: Any, scale: float, shape: Any) -> None:
        self.each("regions", "roi_align_forward", y.size, x, rois, y, scale, self.ints(tuple(shape)))

    def roi_align_backward(self, dy: Any, rois: Any, dx: Any, scale: float, shape: Any) -> None:
        self.each("regions", "roi_align_backward", dx.size, dy, rois, dx, scale, self.ints(tuple(shape)))

    def resample_forward(self, x: Any, y: Any, shape: Any) -> None:
        self.each("resample", "resample_forward", y.size, x, y, self.ints(tuple(shape)))

    def resample_backward(self, dy: Any, dx: Any, shape: Any) -> None:
        self.each("resample", "resample_backward", dx.size, dy, dx, self.ints(tuple(shape)))

    def suppress(self, boxes: Any, count: Any, kept: Any, threshold: float, eta: float) -> None:
        if kept.size:
            self.run("boxes", "suppress", boxes.shape[0], boxes, count, kept, float(threshold), float(eta), boxes.shape[1])

    def lstm_forward(self, gates: Any, c: Any, cont: Any, new: Any, tanh: Any, h: Any) -> None:
        self.each("lstm", "lstm_forward", c.size, gates, c, cont, new, tanh, h, c.size // max(cont.size, 1))

    def lstm_backward(self, gates: Any, c: Any, tanh: Any, dy: Any, dh: Any, dc: Any, d: Any) -> None:
        self.each("lstm", "lstm_backward", c.size, gates, c, tanh, dy, dh, dc, d, c.size // max(gates.shape[0], 1))

    def ctc(self, scores: Any, labels: Any, lengths: Any, steps: Any, losses: Any, gradients: Any, work: Any, blank: int) -> None:
        T, N, C = scores.shape
        self.run("ctc", "ctc", N, scores, labels, lengths, steps, losses, gradients, work, self.xp.empty(N * T, np.float32), blank, T, N, C, labels.shape[1])

    # --------------------------------------------------------------------------------------------------- convolution

    def _conv(self, images: int, channels: int, outputs: int, groups: int, shape: Any) -> tuple[Any, int, int, int, Any]:
        """(ConvShape, rows of a group's columns, output pixels, input pixels, columns of one image)."""
        values, conv = shape[1:], self._shape(shape)
        rows = channels // groups * prod(values[2::6])
        width = prod(values[1::6])
        return conv, rows, width, prod(values[0::6]), self.xp.empty(groups * rows * width, np.float32)

    def im2col(self, image: Any, columns: Any, channels: int, shape: Any) -> None:
        self.each("im2col", "im2col", columns.size, image, columns, self._shape(shape))

    def col2im(self, columns: Any, image: Any, channels: int, shape: Any) -> None:
        self.each("im2col", "col2im", image.size, columns, image, self._shape(shape))

    def _shape(self, shape: Any) -> Any:
        """The ConvShape of (axes, and in, out, kernel, stride, pad, dilation of each)."""
        return self.ints((*shape, *(0,) * (1 + 6 * MAX_AXES - len(shape))))

    def conv_forward(self, x: Any, w: Any, bias: Any, y: Any, images: int, channels: int, outputs: int, groups: int, shape: Any) -> None:
        if groups == channels > 1:
            self.each("im2col", "depthwise_forward", y.size, x, w, y, outputs, outputs // channels, self._shape(shape))
            self._add_bias(y, bias, images, outputs)
            return
        conv, rows, width, plane, columns = self._conv(images, channels, outputs, groups, shape)
        x, w, out, m = x.reshape(images, channels * plane), w.reshape(groups, -1), y.reshape(images, groups, -1), outputs // groups
        for n in range(images):
            self.each("im2col", "im2col", columns.size, x[n], columns, conv)
            for g in range(groups):
                self.backend.gemm(False, False, m, width, rows, w[g], columns[g * rows * width:(g + 1) * rows * width], out[n, g], 0.0)
        self._add_bias(y, bias, images, outputs)

    def _add_bias(self, y: Any, bias: Any, images: int, outputs: int) -> None:
        if bias is not None:
            self.scale_forward(y, None, bias, y, (images, outputs, y.size // (images * outputs)))

    def conv_backward_data(self, dy: Any, w: Any, dx: Any, images: int, channels: int, outputs: int, groups: int, shape: Any) -> None:
        if groups == channels > 1:
            self.each("im2col", "depthwise_backward", dx.size, dy, w, dx, channels, outputs // channels, self._shape(shape))
            return
        conv, rows, width, plane, columns = self._conv(images, channels, outputs, groups, shape)
        dy, w, dx, m = dy.reshape(images, groups, -1), w.reshape(groups, -1), dx.reshape(images, channels * plane), outputs // groups
        for n in range(images):
            for g in range(groups):
                self.backend.gemm(True, False, rows, width, m, w[g], dy[n, g], columns[g * rows * width:(g + 1) * rows * width], 0.0)
            self.each("im2col", "col2im", channels * plane, columns, dx[n], conv)

    def conv_backward_weights(self, x: Any, dy: Any, dw: Any, dbias: Any, beta: float, images: int, channels: int, outputs: int, groups: int, shape: Any) -> None:
        if dbias is not None:
            if beta == 0:
                dbias[...] = 0
            self.scale_gradients(None, dy, None, dbias, (images, outputs, dy.size // max(images * outputs, 1)))
        if groups == channels > 1:
            self.run("im2col", "depthwise_weights", dw.size, x, dy, dw, float(beta), images, outputs, outputs // channels, self._shape(shape))
            return
        conv, rows, width, plane, columns = self._conv(images, channels, outputs, groups, shape)
        x, out, dw, m = x.reshape(images, channels * plane), dy.reshape(images, groups, -1), dw.reshape(groups, -1), outputs // groups
        for n in range(images):
            self.each("im2col", "im2col", columns.size, x[n], columns, conv)
            for g in range(groups):
                self.backend.gemm(False, True, m, rows, width, out[n, g], columns[g * rows * width:(g + 1) * rows * width], dw[g], 1.0 if n else beta)

    # -------------------------------------------------------------------------------------------------------- update

    def sgd_update(self, w: Any, g: Any, h: Any, scale: float, decay: float, l1: bool, rate: float, momentum: float) -> None:
        self.each("update", "sgd_update", w.size, w, g, h, float(scale), float(decay), l1, float(rate), float(momentum))

    def nesterov_update(self, w: Any, g: Any, h: Any, scale: float, decay: float, l1: bool, rate: float, momentum: float) -> None:
        self.each("update", "nesterov_update", w.size, w, g, h, float(scale), float(decay), l1, float(rate), float(momentum))

    def adagrad_update(self, w: Any, g: Any, h: Any, scale: float, decay: float, l1: bool, rate: float, delta: float) -> None:
        self.each("update", "adagrad_update", w.size, w, g, h, float(scale), float(decay), l1, float(rate), float(delta))

    def rmsprop_update(self, w: Any, g: Any, h: Any, scale: float, decay: float, l1: bool, rate: float, rms_decay: float, delta: float) -> None:
        self.each("update", "rmsprop_update", w.size, w, g, h, float(scale), float(decay), l1, float(rate), float(rms_decay), float(delta))

    def adadelta_update(self, w: Any, g: Any, h: Any, h2: Any, scale: float, decay: float, l1: bool, rate: float, momentum: float, delta: float) -> None:
        self.each("update", "adadelta_update", w.size, w, g, h, h2, float(scale), float(decay), l1, float(rate), float(momentum), float(delta))

    def adam_update(self, w: Any, g: Any, h: Any, h2: Any, scale: float, decay: float, l1: bool, rate: float, momentum: float, momentum2: float, delta: float) -> None:
        self.each("update", "adam_update", w.size, w, g, h, h2, float(scale), float(decay), l1, float(rate), float(momentum), float(momentum2), float(delta))

    def rmsprop_momentum_update(self, w: Any, g: Any, h: Any, h2: Any, scale: float, decay: float, l1: bool, rate: float, rms_decay: float, momentum: float, delta: float) -> None:
        self.each("update", "rmsprop_momentum_update", w.size, w, g, h, h2, float(scale), float(decay), l1, float(rate), float(rms_decay), float(momentum), float(delta))

    def adamw_update(self, w: Any, g: Any, h: Any, h2: Any, scale: float, decay: float, l1: bool, rate: float, correction: float, momentum: float, momentum2: float, delta: float) -> None:
        self.each("update", "adamw_update", w.size, w, g, h, h2, float(scale), float(decay), l1, float(rate), float(correction), float(momentum), float(momentum2), float(delta))

    def sum_squares(self, x: Any) -> float:
        blocks = min(-(-x.size // BLOCK), 256) or 1
        sums = self.xp.zeros(blocks, np.float64)
        self.run("update", "sum_squares", blocks, x, sums, np.int64(x.size))
        return float(sums.sum())
