"""RNN: a recurrent net of the simplest kind."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import register
from ..proto import brew_pb2 as pb
from .recurrent import RecurrentLayer


@register("RNN")
class RNNLayer(RecurrentLayer):
    """h = tanh(W_hh (cont h') + W_xh x + b_h),  o = tanh(W_ho h + b_o).

        layer { name: "rnn1" type: "RNN" bottom: "x" bottom: "cont" top: "rnn1"
                recurrent_param { num_output: 64 weight_filler { type: "xavier" } } }

    Bottoms:  x (T, N, ...); cont (T, N), 0 where a sequence begins, else 1; optionally x_static (N, ...);
              with expose_hidden: the hidden state to begin with, (1, N, num_output), which gets a gradient.
    Tops:     o (T, N, num_output); with expose_hidden: the hidden state at the end (its gradient is not used, as in Caffe).
    Blobs:    W_xh (H, inputs), b_h (H), [W_xh_static,] W_hh (H, H), W_ho (H, H), b_o (H).
    """

    def add_more(self, p: pb.RecurrentParameter) -> None:
        self.add_blob((self.hidden, self.hidden), p.weight_filler)
        self.add_blob((self.hidden,), p.bias_filler)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        xp, cont = self.device.xp, bottom[1].value.read()
        sums, w = self.weigh_inputs(bottom), self.blobs[self.recurrent].value.read()
        (h,) = self.begin(bottom)
        self.seen = self.zeros(self.steps, self.sequences, self.hidden)
        self.h = sums                                              # sums turn into hidden states, step by step
        for t in range(self.steps):
            xp.multiply(h, cont[t][:, None], out=self.seen[t])
            self.product(self.seen[t], w, into=sums[t])
            sums[t] = h = xp.tanh(sums[t])
        y = top[0].value.write()
        out = self.product(sums.reshape(-1, self.hidden), self.blobs[-2].value.read())
        y.reshape(-1, self.hidden)[...] = xp.tanh(out + self.blobs[-1].value.read())
        self.end(top, [h])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[1], "cont has no gradient", "propagate_down")
        xp, cont, w = self.device.xp, bottom[1].value.read(), self.blobs[self.recurrent].value.read()
        y, dy = top[0].value.read(), top[0].gradient.read()
        dout = (dy * (1 - y * y)).reshape(-1, self.hidden)
        self.add_product(self.recurrent + 1, dout, self.h.reshape(-1, self.hidden))
        self.add_sum(self.recurrent + 2, dout)
        d: Any = self.product(dout, self.blobs[-2].value.read(), transposed=False).reshape(y.shape)
        dh = xp.zeros((self.sequences, self.hidden), xp.float32)
        for t in reversed(range(self.steps)):
            d[t] = (d[t] + dh) * (1 - self.h[t] * self.h[t])
            dh = self.product(d[t], w, transposed=False) * cont[t][:, None]
        self.add_product(self.recurrent, d.reshape(-1, self.hidden), self.seen.reshape(-1, self.hidden))
        self.backward_inputs(bottom, propagate_down, d, [dh])
