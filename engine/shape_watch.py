"""Whether a net's blobs still have the shapes that its layers ran with: scripts may reshape any of them at any time."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .blob import Blob
from .errors import ShapeError, fail
from .layer import Layer
from .plan import Step


class ShapeWatch:
    """The shapes of each layer's bottoms, tops and parameters after its last forward.

    Kernels rely on them, so that a blob reshaped since must be noticed. Comparing all shapes at every run would cost
    more than running a small layer: while `known` is Blob.changed, no blob has been reshaped, and nothing is compared.
    """

    def __init__(self, layers: Sequence[Layer], bottoms: Sequence[Sequence[Blob]], tops: Sequence[Sequence[Blob]]):
        self.layers, self.bottoms, self.tops = layers, bottoms, tops
        self.shapes = [self._shapes_of(i) for i in range(len(layers))]
        self.known: object = None            # Blob.changed when all shapes were those in `shapes`

    def _shapes_of(self, i: int) -> tuple[list[tuple[int, ...]], ...]:
        return tuple([blob.shape for blob in blobs] for blobs in (self.bottoms[i], self.tops[i], self.layers[i].blobs))

    def note(self, steps: Sequence[Step]) -> None:
        """These have run forward."""
        changed = Blob.changed
        for step in steps:
            for i in range(step.first, step.last + 1):
                self.shapes[i] = self._shapes_of(i)
        same = all(self._shapes_of(i) == shapes for i, shapes in enumerate(self.shapes))
        self.known = changed if same else None

    def before_forward(self, forget: Callable[[int], None]) -> None:
        """Raise ShapeError if a parameter has been reshaped; `forget` layers whose tops have been, so that they are
        reshaped back, as Caffe does at every forward. The tops of layers without bottoms are the user's."""
        for i, (_, tops, params) in enumerate(self.shapes):
            advice = "a parameter keeps its shape while the net exists"
            self._compare(i, "parameter", params, self.layers[i].blobs, advice)
            if self.bottoms[i] and tops != [blob.shape for blob in self.tops[i]]:
                forget(i)

    def before_backward(self, steps: Sequence[Step]) -> None:
        """Raise ShapeError if a blob of these has another shape than in their last forward."""
        for i in [i for step in steps for i in range(step.first, step.last + 1)]:
            now = self.bottoms[i], self.tops[i], self.layers[i].blobs
            for what, shapes, blobs in zip(("bottom", "top", "parameter"), self.shapes[i], now):
                self._compare(i, what, shapes, blobs, "run forward again before backward")

    def _compare(self, i: int, what: str, shapes: Sequence[tuple[int, ...]], blobs: Any, advice: str) -> None:
        for k, (shape, blob) in enumerate(zip(shapes, blobs)):
            if blob.shape != shape:
                found = f"{what} {k} had the shape {shape} in the last forward pass, and has {blob.shape} now"
                fail(self.layers[i].param, f"{found}\n  {advice}", error=ShapeError)
