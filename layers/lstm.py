"""LSTM and LSTMUnit: long short-term memory."""
from __future__ import annotations

from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, exactly, register
from .recurrent import RecurrentLayer


def unit_forward(xp: Any, gates: Any, c: Any, cont: Any) -> tuple[Any, Any, Any]:
    """One step: from the gates (N, 4 H) before activation in the order input, forget, output, candidate, the cell (N, H)
    and cont (N, 1): (activated gates, new cell, its tanh). Where cont is 0 the forget gate is 0."""
    n = gates.shape[1] // 4
    a = xp.empty_like(gates)
    a[:, :3 * n] = 0.5 * xp.tanh(0.5 * gates[:, :3 * n]) + 0.5
    a[:, n:2 * n] *= cont
    a[:, 3 * n:] = xp.tanh(gates[:, 3 * n:])
    new = a[:, n:2 * n] * c + a[:, :n] * a[:, 3 * n:]
    return a, new, xp.tanh(new)


def unit_backward(xp: Any, a: Any, c: Any, tanh_new: Any, dh: Any, dc: Any) -> tuple[Any, Any]:
    """(gradient of the gates before activation, of the old cell) from those of the new hidden state and cell."""
    n = a.shape[1] // 4
    i, f, o, g = (a[:, k * n:(k + 1) * n] for k in range(4))
    dc = dc + dh * o * (1 - tanh_new * tanh_new)
    d = xp.empty_like(a)
    d[:, :n] = dc * g * i * (1 - i)
    d[:, n:2 * n] = dc * c * f * (1 - f)          # 0 where cont is: f is 0 there
    d[:, 2 * n:3 * n] = dh * tanh_new * o * (1 - o)
    d[:, 3 * n:] = dc * i * (1 - g * g)
    return d, dc * f


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
        xp, cont = self.device.xp, bottom[1].value.read()
        gates, w = self.weigh_inputs(bottom), self.blobs[self.recurrent].value.read()
        h, c = self.begin(bottom)
        y = top[0].value.write()
        self.tape: list[tuple[Any, ...]] = []                      # what backward needs of each step
        for t in range(self.steps):
            keep = cont[t][:, None]
            seen = h * keep
            self.product(seen, w, into=gates[t])
            a, new, tanh_new = unit_forward(xp, gates[t], c, keep)
            h = a[:, 2 * self.hidden:3 * self.hidden] * tanh_new
            self.tape.append((seen, a, c, tanh_new, keep))
            y[t], c = h, new
        self.end(top, [h, c])

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[1], "cont has no gradient", "propagate_down")
        xp, dy, w = self.device.xp, top[0].gradient.read(), self.blobs[self.recurrent].value.read()
        d = self.zeros(self.steps, self.sequences, 4 * self.hidden)
        dh = dc = xp.zeros((self.sequences, self.hidden), xp.float32)
        for t in reversed(range(self.steps)):
            seen, a, c, tanh_new, keep = self.tape[t]
            d[t], dc = unit_backward(xp, a, c, tanh_new, dy[t] + dh, dc)
            dh = self.product(d[t], w, transposed=False) * keep
        self.add_product(self.recurrent, d.reshape(-1, 4 * self.hidden), xp.concatenate([step[0] for step in self.tape]))
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
        self.cell = c[0]
        self.a, new, self.tanh_new = unit_forward(self.device.xp, gates[0], c[0], cont.reshape(-1, 1))
        n = c.shape[2]
        top[0].value.write()[0] = new
        top[1].value.write()[0] = self.a[:, 2 * n:3 * n] * self.tanh_new

    def backward(self, top: list[Blob], propagate_down: list[bool], bottom: list[Blob]) -> None:
        self.require(not propagate_down[2], "cont has no gradient", "propagate_down")
        d, dc = unit_backward(self.device.xp, self.a, self.cell, self.tanh_new, top[1].gradient.read()[0], top[0].gradient.read()[0])
        for blob, down, gradient in zip(bottom, propagate_down, (dc, d)):
            if down:
                blob.gradient.write()[0] = gradient
