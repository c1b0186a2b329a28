"""What LSTM and RNN have in common: sequences, states that go from batch to batch, and a pass through time."""
from __future__ import annotations

from math import prod
from typing import Any

from ..engine.blob import Blob
from ..engine.layer import Layer, between
from ..engine.memory import Memory
from ..proto import brew_pb2 as pb


class RecurrentLayer(Layer):
    """Bottoms: x (T, N, ...), cont (T, N), optionally x_static (N, ...), and with expose_hidden the states (1, N, H) to begin with.

    Without expose_hidden a batch begins with the states that the one before ended with. Gradients end at the batch's edge.
    """

    bottoms, tops = between(2, 5), between(1, 3)
    in_place = False
    states = 1                           # how many arrays (N, H) make a state
    gates = 1                            # rows of the input's weights, in units of H

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        p = self.param.recurrent_param
        self.hidden, self.exposed = p.num_output, p.expose_hidden
        self.require(self.hidden > 0, "num_output must be given, and be more than 0", "recurrent_param.num_output")
        extra = self.states if self.exposed else 0
        self.require(len(bottom) in (2 + extra, 3 + extra), f"takes x, cont, perhaps x_static{f', and {extra} states' if extra else ''}; found {len(bottom)} bottoms", "bottom")
        self.require(len(top) == 1 + extra, f"makes {1 + extra} tops{', the last states among them' if extra else ''}; found {len(top)}", "top")
        self.static = len(bottom) == 3 + extra
        self.require(len(bottom[0].shape) >= 2, f"x needs the axes (time, sequence, ...), found the shape {bottom[0].shape}", "bottom")
        self.steps, self.inputs = bottom[0].shape[0], prod(bottom[0].shape[2:])
        rows = self.gates * self.hidden
        self.add_blob((rows, self.inputs), p.weight_filler)
        self.add_blob((rows,), p.bias_filler)
        if self.static:
            self.static_inputs = prod(bottom[2].shape[1:])
            self.add_blob((rows, self.static_inputs), p.weight_filler)
        self.add_blob((rows, self.hidden), p.weight_filler)
        self.recurrent = len(self.blobs) - 1                       # the number of the weights that the state meets
        self.add_more(p)
        self.carried: list[Memory] = []

    def add_more(self, p: pb.RecurrentParameter) -> None:
        """Further blobs, after those that all have."""

    def may_force_backward(self, bottom: int) -> bool:
        return bottom != 1

    def reshape(self, bottom: list[Blob], top: list[Blob]) -> None:
        shape = bottom[0].shape
        self.require(shape[0] == self.steps, f"was made for {self.steps} steps of time; there are now {shape[0]}", "bottom")
        self.require(prod(shape[2:]) == self.inputs, f"the weights are for {self.inputs} inputs; the shape is now {shape}", "bottom")
        self.sequences = shape[1]
        self.require(bottom[1].shape == shape[:2], f"cont needs the shape {shape[:2]}, found {bottom[1].shape}", "bottom[1]")
        if self.static:
            self.require(bottom[2].shape[:1] == (self.sequences,) and prod(bottom[2].shape[1:]) == self.static_inputs, f"x_static needs {self.sequences} items of {self.static_inputs} values, found {bottom[2].shape}", "bottom[2]")
        one = (1, self.sequences, self.hidden)
        for blob in bottom[len(bottom) - self.states:] if self.exposed else []:
            self.require(blob.shape == one, f"a state needs the shape {one}, found {blob.shape}", "bottom")
        top[0].reshape(self.steps, self.sequences, self.hidden)
        for blob in top[1:]:
            blob.reshape(*one)
        if not self.exposed and (not self.carried or self.carried[0].shape != one[1:]):
            self.carried = [Memory(one[1:]) for _ in range(self.states)]

    # ------------------------------------------------------------------------------------------- for the subclasses

    def zeros(self, *shape: int) -> Any:
        return self.device.empty(prod(shape)).reshape(shape)

    def product(self, a: Any, w: Any, transposed: bool = True, into: Any = None) -> Any:
        """a w^T (or a w) as a new array, or added to `into`."""
        rows, inner = a.shape
        cols = w.shape[0] if transposed else w.shape[1]
        c = self.zeros(rows, cols) if into is None else into
        self.device.gemm(False, transposed, rows, cols, inner, a, w, c, 0.0 if into is None else 1.0)
        return c

    def add_product(self, blob: int, a: Any, b: Any) -> None:
        """The gradient of weights: += a^T b."""
        if self.param_propagate_down[blob]:
            dw, beta = self.blobs[blob].gradient.accumulate()
            self.device.gemm(True, False, a.shape[1], b.shape[1], a.shape[0], a, b, dw, beta)

    def add_sum(self, blob: int, a: Any) -> None:
        """The gradient of a bias: += the sum of rows."""
        if self.param_propagate_down[blob]:
            self.k.scale_gradients(None, a, None, self.blobs[blob].gradient.adding(), (a.shape[0], a.shape[1], 1, 1, a.shape[1]))

    def begin(self, bottom: list[Blob]) -> list[Any]:
        """The states (N, H) that this batch begins with: copies, for `end` writes over the carried ones."""
        sources = [b.value for b in bottom[len(bottom) - self.states:]] if self.exposed else self.carried
        return [m.read().reshape(self.sequences, self.hidden).copy() for m in sources]

    def end(self, top: list[Blob], states: list[Any]) -> None:
        """Keep or hand out the states that the batch ended with."""
        for memory, state in zip([b.value for b in top[1:]] if self.exposed else self.carried, states):
            memory.write().reshape(state.shape)[...] = state

    def static_rows(self, x: Any) -> Any:
        """x_static as (N, inputs)."""
        return x.reshape(self.sequences, self.static_inputs)

    def weigh_inputs(self, bottom: list[Blob]) -> Any:
        """W x + b (+ W_static x_static) for all steps, (T, N, gates H)."""
        x = bottom[0].value.read().reshape(-1, self.inputs)
        all_steps = self.product(x, self.blobs[0].value.read())
        all_steps = all_steps.reshape(self.steps, self.sequences, self.gates * self.hidden)
        all_steps += self.blobs[1].value.read()
        if self.static:
            all_steps += self.product(self.static_rows(bottom[2].value.read()), self.blobs[2].value.read())
        return all_steps

    def backward_inputs(self, bottom: list[Blob], propagate_down: list[bool], d: Any, first: list[Any]) -> None:
        """From the gradient `d` (T, N, gates H) of weigh_inputs' result and those of the first states: weights and bottoms."""
        flat = d.reshape(-1, d.shape[2])
        self.add_product(0, flat, bottom[0].value.read().reshape(-1, self.inputs))
        self.add_sum(1, flat)
        if propagate_down[0]:
            bottom[0].gradient.write().reshape(-1, self.inputs)[...] = self.product(flat, self.blobs[0].value.read(), transposed=False)
        if self.static:
            over_time = self.device.xp.ascontiguousarray(d.sum(0))
            self.add_product(2, over_time, self.static_rows(bottom[2].value.read()))
            if propagate_down[2]:
                dx = self.static_rows(bottom[2].gradient.write())
                dx[...] = self.product(over_time, self.blobs[2].value.read(), transposed=False)
        if self.exposed:
            for blob, down, gradient in zip(bottom[-self.states:], propagate_down[-self.states:], first):
                if down:
                    blob.gradient.write().reshape(gradient.shape)[...] = gradient

    def flops(self, bottom: list[Blob], top: list[Blob]) -> int:
        return 2 * self.steps * self.sequences * sum(b.count for b in self.blobs)
