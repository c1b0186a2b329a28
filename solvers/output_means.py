"""The mean of a net's outputs over batches."""
from __future__ import annotations

import logging

import numpy as np

log = logging.getLogger("brew")


class OutputMeans:
    """Sums of each output's values, element by element. An output that changes its number of values from batch to batch
    (boxes, say) has no such mean: it is left out, with one warning."""

    def __init__(self) -> None:
        self.sums: dict[str, np.ndarray] = {}
        self.varying: set[str] = set()
        self.batches = 0

    def add(self, values: dict[str, np.ndarray]) -> None:
        """Take a batch's `output_values()`."""
        self.batches += 1
        for name, array in values.items():
            if name in self.varying:
                continue
            if self.batches > 1 and self.sums[name].shape != array.shape:
                log.warning('Output "%s" had %d values in one batch and has %d in another: it has no mean', name,
                            self.sums.pop(name).size, array.size)
                self.varying.add(name)
            else:
                self.sums[name] = self.sums.get(name, 0.0) + array

    def means(self) -> dict[str, list[float]]:
        """The mean of each element of each output, in the outputs' order."""
        return {name: [float(v) / self.batches for v in values] for name, values in self.sums.items()}
