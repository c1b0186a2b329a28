"""Ten iterations of Caffe's solvers, weight by weight, on every device."""
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import brew
from brew.proto import read_solver

pytestmark = pytest.mark.oracle
FOLDER = Path(__file__).resolve().parents[3] / "shared/oracle/solvers"
CASES = [p.stem for p in sorted(FOLDER.glob("*.npz")) if read_solver(FOLDER / f"{p.stem}.prototxt").type in brew.SOLVERS]


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_caffe(case: str, device: str, shared: Path) -> None:
    recorded = np.load(FOLDER / f"{case}.npz")
    solver = brew.get_solver(FOLDER / f"{case}.prototxt")
    for name in ("data", "label"):
        solver.net.blobs[name].data[...] = recorded[name]
    parameters = [blob for blobs in solver.net.params.values() for blob in blobs]
    for i, blob in enumerate(parameters):
        blob.data[...] = recorded[f"init:{i}"]
    for iteration in range(1, 11):
        solver.step(1)
        assert solver.losses[-1] == pytest.approx(float(recorded[f"loss{iteration}"]), rel=1e-4)
        for i, blob in enumerate(parameters):
            expected = recorded[f"iter{iteration}:{i}"]
            assert np.abs(blob.data - expected).max() <= 1e-4 * np.abs(expected).max(), f"iteration {iteration}, parameter {i}"
