"""Trainings of a net that is sparse in and out: killed and resumed, or with other numbers of threads, the bits are the
same."""
from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import brew
from brew.kernels import cpu
from brew.proto import parse, pb
from brew.tools.convert_xc import Rows, write_rows

sys.path.insert(0, str(Path(__file__).parent))
from test_resume import course, wait_for_a_part  # noqa: E402

NET = """
layer {{ name: "data" type: "SparseData" top: "value" top: "index" top: "label"
         sparse_data_param {{ source: "db" batch_size: {batch} shuffle: true }} }}
layer {{ name: "fc1" type: "InnerProduct" bottom: "value" bottom: "index" top: "fc1"
         inner_product_param {{ num_output: {hidden} input_dim: 90 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "relu1" type: "ReLU" bottom: "fc1" top: "fc1" }}
layer {{ name: "out" type: "LSHInnerProduct" bottom: "fc1" bottom: "label" top: "score" top: "unit"
         inner_product_param {{ num_output: {outputs} weight_filler {{ type: "gaussian" std: 0.1 }} }}
         lsh_param {{ num_tables: 6 bucket_size: 20 rehash_interval: 4 rehash_growth: 1.5 {lsh} }} }}
layer {{ name: "loss" type: "SampledSoftmaxWithLoss" bottom: "score" bottom: "unit" bottom: "label" top: "loss" }}
"""
SOLVER = """
net: "net.prototxt" base_lr: 0.01 momentum: 0.9 momentum2: 0.999 type: "Adam" lr_policy: "fixed" display: 1 max_iter: 24
snapshot: 1 snapshot_prefix: "run" solver_mode: CPU random_seed: 3
"""
# Trains, and is killed at the iteration `when`: before or after the call of a method in it.
DRIVER = """
import os, sys
from brew.layers.lsh_active_sets import ActiveSets
from brew.layers.lsh_products import OwnProducts
from brew.tools.cli import main

def kill(of, name, when, first):
    method = getattr(of, name)
    def call(self, *args):
        due = self.layer.forwards == when
        if due and first:
            os.kill(os.getpid(), 9)
        result = method(self, *args)
        if due:
            os.kill(os.getpid(), 9)
        return result
    setattr(of, name, call)

if len(sys.argv) > 1:
    kill(ActiveSets if sys.argv[1] == "_hash_units" else OwnProducts, sys.argv[1], int(sys.argv[2]), sys.argv[3] == "before")
sys.exit(main(["train", "-solver", "solver.prototxt", "-threads", "2", "-snapshot", "auto"]))
"""
# Rehashes are due at 1, 5, 11, 20. The states are those of each iteration: that of 4 dates from right before a rehash,
# that of 11 from right after one. "backward" has changed weights of its iteration, and moments of theirs.
KILLS = [("_hash_units", "1", "after"), ("_hash_units", "5", "before"), ("_hash_units", "5", "after"),
         ("backward", "12", "after"), ("_hash_units", "20", "before"), ("backward", "20", "after")]
SETS = [("EXAMPLE", "num_samples: 40"), ("BATCH", "num_samples: 40")]


def prepare(folder: Path, **fields: Any) -> Path:
    """A folder with a database, a net and a solver."""
    folder.mkdir()
    rng, n = np.random.default_rng(0), 60
    labels, features = [int(i) for i in rng.integers(0, 4, n)], [int(i) for i in rng.integers(1, 12, n)]
    chosen = [np.sort(rng.choice(limit, k, replace=False)) for limit, counts in ((fields["outputs"], labels), (90, features))
              for k in counts]
    ints = [np.array(labels), np.array(features), np.concatenate(chosen[:n]), np.concatenate(chosen[n:])]
    rows = Rows(*(a.astype(np.int32) for a in ints), rng.standard_normal(sum(features)).astype(np.float32))
    write_rows(str(folder / "db"), [rows], lambda: (90, fields["outputs"]))
    (folder / "net.prototxt").write_text(NET.format(**fields))
    (folder / "solver.prototxt").write_text(SOLVER)
    return folder


def train(folder: Path, *kill: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", DRIVER, *kill], cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("rehash", ["FULL", "INCREMENTAL"])
@pytest.mark.parametrize("active_set, samples", SETS, ids=[active_set for active_set, _ in SETS])
def test_kills_around_rehashes_change_no_bit(active_set: str, samples: str, rehash: str, tmp_path: Path) -> None:
    kind = "hash: SIMHASH num_hashes: 5" if rehash == "FULL" else "hash: DWTA num_hashes: 2"
    fields = {"batch": 4, "hidden": 16, "outputs": 600,
              "lsh": f"{kind} {samples} active_set: {active_set} rehash: {rehash}"}
    whole, killed = prepare(tmp_path / "whole", **fields), prepare(tmp_path / "killed", **fields)
    result = train(whole)
    assert result.returncode == 0, result.stderr[-2000:]
    for kill in KILLS:
        assert train(killed, *kill).returncode == -signal.SIGKILL, kill
    writing = subprocess.Popen([sys.executable, "-c", DRIVER], cwd=killed, stderr=subprocess.DEVNULL)
    wait_for_a_part(killed, writing)                         # in the middle of writing a snapshot
    assert writing.poll() is None
    writing.kill()
    writing.wait()
    result = train(killed)
    assert result.returncode == 0, result.stderr[-2000:]
    names = sorted(path.name for path in whole.glob("run_iter_*"))
    assert len(names) >= 2 and [n for n in names if "_24." in n]
    for name in names:
        assert (whole / name).read_bytes() == (killed / name).read_bytes(), name
    assert course(whole) == course(killed)


@pytest.mark.parametrize("rehash", ["FULL", "INCREMENTAL"])
@pytest.mark.parametrize("active_set", ["EXAMPLE", "BATCH"])
def test_whole_trainings_have_the_same_bits_with_any_threads(active_set: str, rehash: str, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    fields = {"batch": 40, "hidden": 64, "outputs": 3000,
              "lsh": f"num_hashes: 2 num_samples: 300 active_set: {active_set} rehash: {rehash} log_q: true"}
    monkeypatch.chdir(prepare(tmp_path / "net", **fields))
    found = []
    for threads in (1, 2):
        cpu.set_threads(threads)
        try:
            s = brew.get_solver(parse(SOLVER + "debug_info: false", pb.SolverParameter()))
            s.step(24)
            tables = s.net.nodes[-2].sets.tables
            found.append([s.losses, [b.data.tobytes() for blobs in s.net.params.values() for b in blobs],
                          [array.tobytes() for array in s.history], tables.offsets.tobytes(), tables.ids.tobytes(),
                          tables.over_ids.tobytes()])
            assert tables.built == 4
        finally:
            cpu.set_threads(1)
    assert found[0] == found[1]
