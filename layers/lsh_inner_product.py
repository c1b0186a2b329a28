"""LSHInnerProduct: a fully connected layer that computes only the outputs which hashing expects to be large."""
from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from ..engine.blob import Blob
from ..engine.layer import Layer, between, register
from ..engine.store import INT32
from ..proto import brew_pb2 as pb
from .embed import sums_of_rows
from .inner_product import check_pair, pair_indices
from .lsh_active_sets import ActiveSets
from .lsh_products import OwnProducts, SharedProducts
from .whole_numbers import integers, refuse

BLOCK = 8192                                 # outputs that TEST computes at a time


@register("LSHInnerProduct")
class LSHInnerProductLayer(Layer):
    """InnerProduct with many outputs ("units"), of which training computes a sample: each example's labels, units whose
    weights share buckets of locality-sensitive hash tables with its input, and uniform ones (SLIDE: Chen et al., 2020).

        layer { name: "out" type: "LSHInnerProduct" bottom: "fc1" bottom: "label" top: "score" top: "unit"
                inner_product_param { num_output: 131072 weight_filler { type: "gaussian" std: 0.01 } }
                lsh_param { hash: DWTA num_hashes: 6 num_tables: 50 num_samples: 4096 rehash_interval: 50
                            test_top_k: 5 } }

    Bottoms:  (N, inputs...); or, with input_dim, a pair: values (N, S) and indices (N, S), -1 for padding. Then, if
              wanted, labels (N, L), padded by -1: in TRAIN they are in the active set, first; TEST does not look at
              them.
    Tops:     scores (N, A), and the numbers of their units (N, A), -1 for padding, whose score is 0. TEST: the
              test_top_k best units, best first, of equal ones the lower; without test_top_k all scores (N, num_output),
              and the second top may be left out.
    Blobs:    weights (num_output, inputs) and, unless bias_term is false, bias (num_output): InnerProduct's. The
              default filler is gaussian with std 0.01. Gradients are row-sparse: units that no example sampled stay as
              they are, without decay and momentum.

    hash            SIMHASH, WTA or DWTA (default), with num_hashes hashes for each of num_tables tables: lsh_hashes.py.
    bucket_size     units that a bucket keeps; bucket_policy: FIFO keeps the last, RESERVOIR (default) a uniform sample
                    of all.
    num_samples     units of an example, labels included. Labels may be more; where tables run out, uniform units fill
                    the rest.
    sampling        VANILLA: tables in a rotating order until there are enough. TOP_K: the units found in most tables.
                    THRESHOLD: those found in `threshold` tables at least. UNIFORM: no tables at all, the control.
                    MIXED: half as VANILLA, half uniform.
    active_set      EXAMPLE: each has its own. BATCH: one for all, sorted, of num_samples units that the examples fill
                    in turns: plain matrix products, and a fraction of the time.
    log_q           subtracts from the scores of units that are not labels the logarithm of their probability to be
                    sampled (Jean et al., ACL 2015, section 3): see lsh_probability.py. Not with TOP_K.
    rehash_interval iterations after which all units are hashed anew, multiplied each time by rehash_growth. rehash:
                    INCREMENTAL hashes only units whose weights have changed.
    test            EXACT (default) or SAMPLED: TEST computes only units that the tables give, num_samples at most; it
                    hashes the units whenever weights have changed.
    """

    bottoms, tops = between(1, 3), between(1, 2)
    in_place = False
    backward_uses = ("bottom",)
    counter = "forwards"

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p, q = self.param.inner_product_param, self.param.lsh_param
        self.pair, self.outputs, self.train = p.HasField("input_dim"), p.num_output, self.phase == pb.TRAIN
        self.require(self.outputs > 0, "num_output must be given, and be more than 0", "inner_product_param.num_output")
        for field in ("axis", "transpose", "sparse_gradient"):
            self.require(not p.HasField(field),
                         f"{field} is not for this layer: its weights are (num_output, inputs), row-sparse",
                         f"inner_product_param.{field}")
        self.require(len(bottom) - self.pair in (1, 2), "takes one bottom, or values and indices where input_dim is "
                     f"given, and labels if wanted; found {len(bottom)}", "bottom")
        self.labelled = len(bottom) - self.pair == 2
        self.inputs = p.input_dim if self.pair else prod(bottom[0].shape[1:])
        self.require(self.inputs > 0 and bottom[0].shape, f"the bottom's shape {bottom[0].shape} leaves no inputs",
                     "bottom")
        self.require(q.test_top_k <= self.outputs,
                     f"test_top_k is {q.test_top_k}, and there are {self.outputs} outputs", "lsh_param.test_top_k")
        self.sampled = self.train or q.test == q.SAMPLED
        self.require(len(top) == 2 or not self.sampled and not q.test_top_k, "needs two tops, scores and units", "top")
        filler = p.weight_filler if p.HasField("weight_filler") else pb.FillerParameter(type="gaussian", std=0.01)
        self.require(filler.type != "constant",
                     "constant weights have the same hashes in all units: take a gaussian filler",
                     "inner_product_param.weight_filler.type")
        self.add_blob((self.outputs, self.inputs), filler, 0)
        if p.bias_term:
            self.add_blob((self.outputs,), p.bias_filler, 0)
        self.forwards = 0
        if self.sampled:
            self.sets = ActiveSets(self, q)
            shared = self.train and q.active_set == q.BATCH
            self.products = SharedProducts(self) if shared else OwnProducts(self)
        for blob in top:
            blob.variable = (1,)

    def keeper(self) -> Any:
        return self.sets if self.train else None

    def may_force_backward(self, bottom: int) -> bool:
        return bottom == 0

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape, q = bottom[0].shape, self.param.lsh_param
        if self.pair:
            check_pair(self, bottom)
        else:
            self.require(bool(shape) and prod(shape[1:]) == self.inputs,
                         f"the weights are for {self.inputs} inputs; the shape is now {shape}", "bottom")
        self.rows = shape[0]
        if self.labelled:
            found = bottom[-1].shape
            self.require(len(found) in (1, 2) and found[0] == self.rows,
                         f"there are {self.rows} items, and labels of the shape {found}", "bottom")
        best = q.test_top_k if not self.train else 0
        width = best or (min(q.num_samples, self.outputs) if self.sampled else self.outputs)
        for blob in top:
            blob.reshape(self.rows, width)

    # ---------------------------------------------------------------------------------------------------- the inputs

    def dense(self, bottom: list[Blob]) -> Any:
        """The inputs (N, inputs). Those of a pair are added where indices repeat."""
        x = bottom[0].value.read()
        if not self.pair:
            return x.reshape(self.rows, self.inputs)
        index = self.index = pair_indices(self, bottom[1], self.inputs)
        xp, count = self.device.xp, self.rows * self.inputs
        dense = self.device.empty(count)
        dense[...] = 0
        first = xp.arange(self.rows, dtype=np.int32)[:, None] * self.inputs
        place = xp.where(index >= 0, index + first, -1).astype(np.int32)
        if index.size:
            places, values = sums_of_rows(self, place.reshape(-1), count, x.reshape(-1), None, 1)
            dense[places] = values[:, 0]
        return dense.reshape(self.rows, self.inputs)

    def labels(self, bottom: list[Blob]) -> Any:
        """(N, L), checked, int32; (N, 0) without labels and in TEST."""
        if not self.labelled or not self.train:
            return self.device.xp.empty((self.rows, 0), np.int32)
        labels = integers(bottom[-1].value)
        refuse(self, (labels < -1) | (labels >= self.outputs), bottom[-1].value,
               f"a label must lie between 0 and {self.outputs - 1}, or be -1 for none, found {{value}}",
               f"bottom[{len(bottom) - 1}]")
        return labels.reshape(self.rows, prod(labels.shape[1:]))

    # ------------------------------------------------------------------------------------------------------- the run

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        x = self.dense(bottom)
        self.whole = x if self.pair and self.train else None    # made once for forward and backward
        if self.train:
            self.forwards += 1
            self.sets.rehash()
            self.products.train(x, self.labels(bottom), top)
        elif self.sampled:
            self.products.test(x, top)
        elif self.param.lsh_param.test_top_k:
            self.best(x, top)
        else:
            self.all(x, top)

    def all(self, x: Any, top: list[Blob]) -> None:
        """Every output's score."""
        weights, *bias = self.blobs
        y = top[0].value.write()
        if bias:
            y[...] = bias[0].value.read()
        if self.rows:
            self.device.gemm(False, True, self.rows, self.outputs, self.inputs, x, weights.value.read(), y,
                             1.0 if bias else 0.0)
        if len(top) > 1:
            top[1].value.write_as(INT32)[...] = self.device.xp.arange(self.outputs, dtype=np.int32)

    def best(self, x: Any, top: list[Blob]) -> None:
        """The best units of all, a block of outputs at a time."""
        weights, *bias = (blob.value.read() for blob in self.blobs)
        score, unit = top[0].value.write(), top[1].value.write_as(INT32)
        score[...], unit[...] = -np.inf, -1
        block = self.device.empty(self.rows * min(BLOCK, self.outputs))
        for first in range(0, self.outputs if self.rows else 0, BLOCK):
            n = min(BLOCK, self.outputs - first)
            y = block[:self.rows * n].reshape(self.rows, n)
            if bias:
                y[...] = bias[0][first:first + n]
            self.device.gemm(False, True, self.rows, n, self.inputs, x, weights[first:first + n], y,
                             1.0 if bias else 0.0)
            self.k.merge_best(y, score, unit, self.rows, first)
        score[unit < 0] = 0                      # where scores are NaN

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        """The gradients of weights and bias last: a solver may update rows at once."""
        self.require(not any(propagate_down[1:]), "indices and labels have no gradient; put propagate_down: false here",
                     "propagate_down")
        self.require(self.train, "has gradients in TRAIN only", "propagate_down")
        x = self.dense(bottom) if self.whole is None else self.whole
        dx = self.products.backward(x, top[0].gradient.read(), propagate_down[0])
        if propagate_down[0]:
            to = bottom[0].gradient.write()
            if self.pair:
                xp, index = self.device.xp, self.index
                to[...] = xp.take_along_axis(dx, xp.maximum(index, 0).astype(np.int64), 1) * (index >= 0)
            else:
                to.reshape(self.rows, self.inputs)[...] = dx

    def flops(self, bottom: list[Blob], top: list[Blob]) -> int:
        return 2 * self.rows * self.inputs * (top[0].shape[1] if self.sampled else self.outputs)

    def table_bytes(self) -> int:
        return self.sets.tables.bytes if self.sampled and self.sets.tables is not None else 0
