"""LSTM and LSTMUnit: long short-term memory."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, exactly, register
from .recurrent import RecurrentLayer


@register("LSTM")
class LSTMLayer(RecurrentLayer):
    """Long short-term memory over sequences (Hochreiter and Schmidhuber 1997, with forget gates, no peepholes).

        layer { name: "lstm1" type: "LSTM" bottom: "words" bottom: "cont" top: "lstm1"
                recurrent_param { num_output: 256 weight_filler { type: "uniform" min: -0.08 max: 0.08 } } }

    Bottoms:  x (T, N, ...); cont (T, N), 0 where a sequence begins, else 1; optionally x_static (N, ...);
              with expose_hidden: hidden state and cell to begin with, (1, N, num_output) each, which get gradients.
    Tops:     h (T, N, num_output); with expose_hidden: hidden state and cell at the end (their gradient is not used, as in Caffe).
    Blobs:    W_xc (4 H, inputs), b_c (4 H), [W_xc_static (4 H, static inputs),] W_hc (4 H, H); gates in the order i, f, o, g.

    c = cont f c' + i g,  h = o tanh(c).  Without expose_hidden the state goes on from batch to batch; cont cuts it.
    """

    states, gates = 2, 4

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        cont, w = bottom[1].value.read(), self.blobs[self.recurrent].value.read()
        self.activations = self.weigh_inputs(bottom)
        h, c = self.begin(bottom)
        y = top[0].value.write()
        step = (self.steps, self.sequences, self.hidden)
        # What backward needs of each step: the hidden state that it saw, the cells before and after, and their tanh.
        self.seen, self.cells, self.tanh = self.zeros(*step), self.zeros(step[0] + 1, *step[1:]), self.zeros(*step)
        self.cells[0] = c
        for t in range(self.steps):
            self.device.xp.multiply(h, cont[t][:, None], out=self.seen[t])
            self.product(self.seen[t], w, into=self.activations[t])
            self.k.lstm_forward(self.activations[t], self.cells[t], cont[t], self.cells[t + 1], self.tanh[t], y[t])
            h = y[t]
        self.end(top, [h, self.cells[self.steps]])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[1], "cont has no gradient", "propagate_down")
        cont, dy, w = bottom[1].value.read(), top[0].gradient.read(), self.blobs[self.recurrent].value.read()
        d = self.zeros(self.steps, self.sequences, 4 * self.hidden)
        dh, dc = self.zeros(self.sequences, self.hidden), self.zeros(self.sequences, self.hidden)
        dh[...] = dc[...] = 0
        for t in reversed(range(self.steps)):
            self.k.lstm_backward(self.activations[t], self.cells[t], self.tanh[t], dy[t], dh, dc, d[t])
            dh = self.product(d[t], w, transposed=False)
            dh *= cont[t][:, None]
        self.add_product(self.recurrent, d.reshape(-1, 4 * self.hidden), self.seen.reshape(-1, self.hidden))
        self.backward_inputs(bottom, propagate_down, d, [dh, dc])


@register("LSTMUnit")
class LSTMUnitLayer(Layer):
    """One step of an LSTM, without its weights.

        layer { name: "unit" type: "LSTMUnit" bottom: "c_before" bottom: "gates" bottom: "cont" top: "c" top: "h" }

    Bottoms:  the cell (1, N, H); the gates before activation (1, N, 4 H), i, f, o, g; cont (1, N), which gets no gradient.
    Tops:     the new cell and hidden state, (1, N, H) each.
    """

    bottoms, tops, in_place = exactly(3), exactly(2), False

    def may_force_backward(self, bottom: int) -> bool:
        return bottom < 2

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.require(len(shape) == 3 and shape[0] == 1, f"the cell needs the shape (1, N, H), found {shape}", "bottom")
        self.require(bottom[1].shape == (1, shape[1], 4 * shape[2]), f"the gates need the shape {(1, shape[1], 4 * shape[2])}, found {bottom[1].shape}", "bottom[1]")
        self.require(bottom[2].count == shape[1], f"cont needs {shape[1]} values, found {bottom[2].count}", "bottom[2]")
        for blob in top:
            blob.reshape(*shape)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        c, gates, cont = (b.value.read() for b in bottom)
        self.activations: Any = gates[0].copy()
        self.tanh: Any = self.device.xp.empty_like(c[0])
        self.k.lstm_forward(self.activations, c[0], cont.reshape(-1), top[0].value.write()[0], self.tanh, top[1].value.write()[0])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[2], "cont has no gradient", "propagate_down")
        xp, c = self.device.xp, bottom[0].value.read()[0]
        dc, d = top[0].gradient.read()[0].copy(), xp.empty_like(self.activations)
        self.k.lstm_backward(self.activations, c, self.tanh, top[1].gradient.read()[0], xp.zeros_like(dc), dc, d)
        for blob, down, gradient in zip(bottom, propagate_down, (dc, d)):
            if down:
                blob.gradient.write()[0] = gradient
