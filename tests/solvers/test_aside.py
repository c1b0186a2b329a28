"""Snapshots and caffemodels above what protobuf holds: large arrays in a file beside them."""
from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

import brew
from brew.engine import aside
from brew.engine.errors import SnapshotError, WeightsError
from brew.proto import parse, pb, read_weights
from brew.solvers import snapshot, state_file
from brew.solvers.state import State
from brew.solvers.state_value import decode, encode

NET = """
    layer { name: "d" type: "DummyData" top: "x" top: "y" dummy_data_param { shape { dim: 4 dim: 30 } shape { dim: 4 dim: 40 }
            data_filler { type: "gaussian" } data_filler { type: "gaussian" } } }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "p" inner_product_param { num_output: 40 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "p" bottom: "y" top: "loss" }"""


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "LARGEST", 4000)
    monkeypatch.setattr(aside, "LARGE", 1000)


def solver(more: str = "average_decay: 0.5") -> brew.Solver:
    param = parse(f'base_lr: 0.1 momentum: 0.9 lr_policy: "fixed" random_seed: 1 snapshot_prefix: "s" {more}',
                  pb.SolverParameter())
    parse(NET, param.net_param)
    return brew.get_solver(param)


def outcome(s: brew.Solver) -> list[bytes]:
    return [*(p.blob.data.tobytes() for p in s.net.learnable), *(np.asarray(h).tobytes() for h in s.history),
            np.asarray(s.average).tobytes()]


@pytest.mark.parametrize("end, files", [("", ["caffemodel", "average.caffemodel", "solverstate"]),
                                        ("snapshot_format: HDF5", ["solverstate.h5"])], ids=["binary", "hdf5"])
def test_resume_bit_for_bit(end: str, files: list[str], tmp_path: Path) -> None:
    whole, half, again = (solver(f"average_decay: 0.5 {end}") for _ in range(3))
    whole.step(5)
    half.step(2)
    path = half.snapshot()
    beside = sorted(p.name for p in tmp_path.glob("*.data"))
    assert beside == sorted(f"s_iter_2{'_' if f.startswith('average') else '.'}{f}.data" for f in files)
    assert (tmp_path / f"{path}.data").stat().st_size == 4 * 1200 * (1 if end else 2) and (end
            or Path(path).stat().st_size < 2000)
    again.restore(path)
    again.step(3)
    assert outcome(again) == outcome(whole) and snapshot.newest("s") == path


def test_small_ones_have_no_second_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "LARGEST", 2**30)
    solver().snapshot()
    assert not list(tmp_path.glob("*.data"))


@pytest.mark.parametrize("damage", ["gone", "a bit", "cut", "of another"])
def test_a_damaged_second_file_changes_nothing_and_is_named(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    s = solver()
    s.step(1)
    first = s.snapshot()
    s.step(1)
    path, other = s.snapshot(), solver()
    beside, data = Path(f"{path}.data"), bytearray(Path(f"{path}.data").read_bytes())
    if damage == "gone":
        beside.unlink()
    elif damage == "of another":
        beside.write_bytes(Path(f"{first}.data").read_bytes())
    else:
        data[77] ^= 4
        beside.write_bytes(data[:-1] if damage == "cut" else data)
    other.step(1)
    before = outcome(other)
    with pytest.raises(SnapshotError, match=rf"{beside.name}.*belong to {path}|belong to {path}"):
        other.restore(path)
    assert outcome(other) == before and other.iter == 1
    with caplog.at_level(logging.WARNING):
        assert snapshot.newest("s") == first
    assert "passing over a snapshot" in caplog.text and beside.name in caplog.text


def test_a_caffemodel_without_its_second_file_is_passed_over() -> None:
    s = solver()
    s.step(1)
    first = s.snapshot()
    s.step(1)
    path, other = s.snapshot(), solver()
    Path("s_iter_2.caffemodel.data").unlink()
    assert snapshot.newest("s") == first
    with pytest.raises(SnapshotError, match="s_iter_2.caffemodel.data"):
        other.restore(path)


def test_large_values_of_layers_go_there_too() -> None:
    value = {"table": np.arange(700, dtype=np.int64), "text": "x" * 2000, "few": [1, 2]}
    layer = pb.LayerState(net=-1, layer="l")
    encode(value, layer.user, "state")
    Path("m.caffemodel").write_bytes(b"weights")
    path = snapshot.save(State(3, seed=1, layer_states=[layer]), "p", False,
                         lambda name: Path(name).write_bytes(b"weights"))
    assert Path(path).stat().st_size < 1000 and Path(f"{path}.data").stat().st_size == 5600 + 2000
    assert not state_file.read(path)[0].layer[0].user.item[1].data
    found = decode(snapshot.load(path)[0].layer_states[0].user)
    assert np.array_equal(found["table"], value["table"]) and found["text"] == value["text"] and found["few"] == [1, 2]


def test_a_large_caffemodel() -> None:
    nets = [brew.Net(parse(NET, pb.NetParameter()), brew.TEST, seed=k) for k in range(3)]
    nets[0].save("a.caffemodel")
    assert Path("a.caffemodel").stat().st_size < 2000 and Path("a.caffemodel.data").stat().st_size == 4800
    nets[1].copy_from("a.caffemodel")
    assert all(np.array_equal(a.data, b.data) for a, b in zip(nets[0].params["ip"], nets[1].params["ip"]))
    with pytest.raises(WeightsError, match="a blob's values lie in a file beside this one"):
        brew.proto.to_array(read_weights("a.caffemodel").layer[1].blobs[0])
    Path("a.caffemodel.data").write_bytes(b"\0" * 4800)
    before = nets[2].params["ip"][0].data.copy()
    with pytest.raises(SnapshotError, match="a.caffemodel.data.*damaged, or does not belong to a.caffemodel"):
        nets[2].copy_from("a.caffemodel")
    assert np.array_equal(nets[2].params["ip"][0].data, before)
