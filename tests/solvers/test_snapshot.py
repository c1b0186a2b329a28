"""Damaged snapshots are never trained on, and a restore that fails changes nothing."""
from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

import brew
from brew.engine.errors import SnapshotError, WeightsError
from brew.proto import parse, pb
from brew.solvers import layer_state, snapshot, state_file

NET = """
layer { name: "x" type: "DummyData" top: "x" dummy_data_param { shape { dim: 2 dim: 1 dim: 3 } data_filler { type: "gaussian" } } }
layer { name: "cont" type: "DummyData" top: "cont" dummy_data_param { shape { dim: 2 dim: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "lstm" type: "LSTM" bottom: "x" bottom: "cont" top: "h" recurrent_param { num_output: 1 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "h" top: "y" inner_product_param { num_output: 2 axis: 2 weight_filler { type: "xavier" } } }
layer { name: "drop" type: "Dropout" bottom: "y" top: "y" }
layer { name: "target" type: "DummyData" top: "t" dummy_data_param { shape { dim: 2 dim: 1 dim: 2 } data_filler { type: "constant" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }
"""
SOLVER = """base_lr: 0.1 momentum: 0.9 lr_policy: "plateau" gamma: 0.5 plateau_winsize: 2 plateau_winsize: 3 average_loss: 3 average_decay: 0.9
test_iter: 1 test_interval: 4 random_seed: 5 snapshot_prefix: "s" snapshot_after_train: false"""
FORMATS = pytest.mark.parametrize("end", ["", ".h5"], ids=["binary", "hdf5"])


def solver(end: str = "", steps: int = 0, seed: int = 5) -> brew.Solver:
    param = parse(SOLVER + (" snapshot_format: HDF5" if end else ""), pb.SolverParameter())
    param.net_param.CopyFrom(parse(NET, pb.NetParameter()))
    param.random_seed = seed
    made = brew.get_solver(param)
    made.step(steps)
    return made


def everything(s: brew.Solver) -> tuple[Any, ...]:
    """All that a restore may change."""
    arrays = [blob.value.read().tobytes() for net in s.nets for layer in net.layers for blob in layer.blobs]
    arrays += [a.tobytes() for a in s.history] + [b"" if s.average is None else s.average.tobytes()]
    seeds = [s.seed, *(net.seed for net in s.nets), *(layer.seed for net in s.nets for layer in net.layers)]
    layers = [state.SerializeToString() for state in layer_state.collect(s.nets)]
    return arrays, seeds, layers, s.iter, s.current_step, list(s.losses), s.plateau.minimum, s.plateau.since


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Thousands of restores do not log, nor do thousands of files wait for the disk."""
    monkeypatch.setattr("brew.engine.files._sync", lambda path: None)
    logging.getLogger("brew").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("brew").setLevel(logging.NOTSET)


def two_snapshots(end: str) -> tuple[str, str]:
    """The paths of the states of iterations 2 and 3."""
    s = solver(end, 2)
    first = s.snapshot()
    s.step(1)
    return first, s.snapshot()


def without_checksum(state: pb.SolverState, path: str) -> None:
    """Write a state as Caffe does, and as brew did."""
    if not path.endswith(".h5"):
        Path(path).write_bytes(state.SerializeToString())
        return
    state_file.write(path, state)
    with h5py.File(path) as checked, h5py.File("old", "w") as old:
        for name in checked:
            checked.copy(name, old)
    Path("old").rename(path)


# ------------------------------------------------------------------------------------------------------------- damage

def damaged_versions(data: bytes, bits: int | None = None) -> Iterator[bytes]:
    """With every bit flipped, or `bits` of them; and cut short at every length, or at a tenth as many."""
    draw = random.Random(4)
    for bit in range(8 * len(data)) if bits is None else {*range(100), *draw.sample(range(8 * len(data)), bits)}:
        yield data[:bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1:]
    for length in range(len(data)) if bits is None else {*range(0, len(data), 10 * len(data) // bits), *range(len(data) - 40, len(data))}:
        yield data[:length]


@FORMATS
def test_no_flipped_bit_and_no_cut_of_a_state_is_taken(end: str, quiet: None) -> None:
    whole, newest = two_snapshots(end)
    other = solver(end, 1)
    before = everything(other)
    n = 0
    for data in damaged_versions(Path(newest).read_bytes(), 2000 if end else None):
        Path(newest).write_bytes(data)
        with pytest.raises(SnapshotError, match=f"^{newest}: this (solverstate is damaged|is no solverstate)"):
            other.restore(newest)
        if n % 50 == 0:
            assert snapshot.newest("s") == whole
        n += 1
    assert n > 2000 and everything(other) == before


@FORMATS
def test_no_flipped_bit_and_no_cut_of_its_caffemodel_is_taken(end: str, quiet: None) -> None:
    whole, newest = two_snapshots(end)
    model = Path(newest.replace("solverstate", "caffemodel"))
    other = solver(end, 1)
    before = everything(other)
    for n, data in enumerate(damaged_versions(model.read_bytes(), 1000)):
        model.write_bytes(data)
        with pytest.raises(SnapshotError, match=f"^{newest}: {model} is not the caffemodel that this state was written with$"):
            other.restore(newest)
        if n % 50 == 0:
            assert snapshot.newest("s") == whole
    assert everything(other) == before


def test_the_error_says_what_to_do() -> None:
    _, newest = two_snapshots("")
    Path(newest).write_bytes(Path(newest).read_bytes()[:-1])
    with pytest.raises(SnapshotError) as e:
        solver().restore(newest)
    assert str(e.value) == ("s_iter_3.solverstate: this solverstate is damaged or cut short: it does not have the checksum that it was written with\n"
                            "  resume from an earlier one; -snapshot auto takes the newest that is whole")
    with pytest.raises(SnapshotError) as e:
        solver().restore("none.solverstate")
    assert str(e.value) == "none.solverstate: cannot read this solverstate: No such file or directory"


@FORMATS
def test_a_damaged_average_is_named_and_does_not_stop_resuming(end: str, caplog: pytest.LogCaptureFixture) -> None:
    _, newest = two_snapshots(end)
    average = Path(f"s_iter_3_average.caffemodel{end}")
    data = bytearray(average.read_bytes())
    data[len(data) // 2] ^= 4
    average.write_bytes(data)
    other = solver(end)
    other.restore(newest)
    assert f"{average} is damaged, or of another training: do not use it" in caplog.text
    assert everything(other) == everything(solver(end, 3))
    caplog.clear()
    average.unlink()                                               # nobody needs it
    other.restore(newest)
    assert "is damaged" not in caplog.text


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change(**fields: Any) -> Callable[[Path], None]:
    """A state without a checksum that has these fields, as a flipped bit may have left it."""
    def damage(path: Path) -> None:
        state, _ = state_file.read(str(path))
        for name, value in fields.items():
            setattr(state, name, value)
        without_checksum(state, str(path))
    return damage


def no_utf8(path: Path) -> None:
    """As faults/auto_crash_BINARYPROTO.solverstate: a byte of the caffemodel's name is wrong."""
    state, _ = state_file.read(str(path))
    without_checksum(state, str(path))
    path.write_bytes(path.read_bytes().replace(b"s_iter_3", b"s_iter\x803"))


def model_of(path: Path) -> Path:
    return Path(str(path).replace("solverstate", "caffemodel"))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a flipped bit": flip, "cut short": lambda path: path.write_bytes(path.read_bytes()[:200]) and None, "empty": lambda path: path.write_bytes(b"") and None,
    "text": lambda path: path.write_text("no state") and None, "a folder": lambda path: (path.unlink(), path.mkdir()) and None,
    "a wrong iter": change(iter=-2**31), "a wrong step": change(current_step=-5), "a wrong loss": change(minimum_loss=float("nan")), "no utf-8": no_utf8,
    "a damaged caffemodel": lambda path: flip(model_of(path)), "no caffemodel": lambda path: model_of(path).unlink(),
    "a damaged caffemodel of Caffe": lambda path: (change(learned_net_sha256="")(path), model_of(path).write_bytes(b"\x0a")) and None,
}


@FORMATS
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_auto_goes_back_to_the_newest_that_is_whole(damage: Callable[[Path], None], end: str, caplog: pytest.LogCaptureFixture) -> None:
    whole, newest = two_snapshots(end)
    assert snapshot.newest("s") == newest
    damage(Path(newest))
    caplog.clear()
    assert snapshot.newest("s") == whole
    (message,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert message.startswith("passing over a snapshot: ") and "s_iter_3." in message


@FORMATS
def test_a_state_without_a_checksum_is_read_with_a_note(end: str, caplog: pytest.LogCaptureFixture) -> None:
    _, newest = two_snapshots(end)
    caplog.set_level(logging.INFO, "brew")
    other = solver(end)
    other.restore(newest)
    assert "has no checksum" not in caplog.text
    without_checksum(state_file.read(newest)[0], newest)
    other = solver(end)
    other.restore(newest)
    assert f"{newest} has no checksum, as states of Caffe and of former versions: damage would go unnoticed" in caplog.text
    assert everything(other) == everything(solver(end, 3))


def test_caffe_reads_a_state_with_a_checksum() -> None:
    """With Caffe's schema, in which only these fields are known."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe")
    for name, fields in (("BlobShape", [("dim", 1, 3, 3, "")]), ("BlobProto", [("shape", 7, 1, 11, ".caffe.BlobShape"), ("data", 5, 3, 2, "")]),
                         ("SolverState", [("iter", 1, 1, 5, ""), ("learned_net", 2, 1, 9, ""), ("history", 3, 3, 11, ".caffe.BlobProto"), ("current_step", 4, 1, 5, "")])):
        message = file.message_type.add(name=name)
        for field, number, label, kind, of in fields:
            message.field.add(name=field, number=number, label=label, type=kind, type_name=of or None)  # type: ignore[arg-type]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    theirs = message_factory.GetMessageClass(pool.FindMessageTypeByName("caffe.SolverState"))()
    _, newest = two_snapshots("")
    theirs.ParseFromString(Path(newest).read_bytes())
    ours, _ = state_file.read(newest)
    assert (theirs.iter, theirs.learned_net, theirs.current_step) == (3, "s_iter_3.caffemodel", ours.current_step)  # type: ignore[attr-defined]
    assert [list(b.data) for b in theirs.history] == [list(b.data) for b in ours.history]  # type: ignore[attr-defined]


def test_hdf5_reads_a_state_with_a_checksum() -> None:
    _, newest = two_snapshots(".h5")
    ours, _ = state_file.read(newest)
    with h5py.File(newest) as file:
        assert (file["iter"][()], file["learned_net"][()], file["current_step"][()]) == (3, b"s_iter_3.caffemodel.h5", ours.current_step)
        assert [file["history"][str(i)].shape for i in range(len(ours.history))] == [tuple(b.shape.dim) for b in ours.history]


# ----------------------------------------------------------------------------------------------------- all or nothing

def mutate(state: pb.SolverState, draw: random.Random) -> None:
    """Change one thing to a value that parses."""
    number = draw.choice([-1, 0, 1, 2, 7, 2**31 - 1, -2**31, draw.randrange(-10, 10)])
    real = draw.choice([0.0, -1.0, 1e38, float("inf"), float("nan"), draw.random()])
    lists = [blobs for blobs in (state.history, state.average, *(layer.carried for layer in state.layer)) if blobs]
    if not lists or not state.layer:                           # an earlier change took them
        return
    blobs = draw.choice(lists)
    blob, layer = draw.choice(blobs), draw.choice(state.layer)
    draw.choice([
        lambda: setattr(state, draw.choice(["iter", "current_step", "iter_last_event"]), number),
        lambda: state.ClearField(draw.choice(["iter", "current_step", "seed", "learned_net", "learned_net_sha256", "average", "layer", "history", "loss_window"])),
        lambda: setattr(state, "learned_net", draw.choice(["gone", "", "/", ".", "\0", "x" * 300, "s_iter_2.caffemodel"])),
        lambda: setattr(state, "seed", draw.getrandbits(64)),
        lambda: setattr(state, "minimum_loss", real),
        lambda: state.loss_window.append(real),
        lambda: blobs.pop(draw.randrange(len(blobs))),
        lambda: blobs.add().CopyFrom(blob),
        lambda: blob.data.append(real),
        lambda: blob.ClearField(draw.choice(["data", "shape"])),
        lambda: blob.shape.dim.append(draw.choice([1, 0, -1, 2, 2**40])),
        lambda: blob.shape.dim.extend([1] * 70),
        lambda: setattr(blob, draw.choice(["num", "channels", "height", "width"]), number),
        lambda: blobs[0].CopyFrom(draw.choice(blobs)),
        lambda: setattr(layer, "net", number),
        lambda: setattr(layer, "count", draw.choice([0, 3, 2**40, 2**40 + 1, 2**63, 2**64 - 1])),
        lambda: setattr(layer, "layer", draw.choice(["gone", "", "ip", "lstm", "drop"])),
        lambda: setattr(layer.user, "kind", draw.randrange(11)),
        lambda: state.layer.add().CopyFrom(layer),
    ])()


@FORMATS
@pytest.mark.parametrize("checksum", [True, False], ids=["with checksum", "without"])
def test_a_restore_changes_all_or_nothing(end: str, checksum: bool, quiet: None) -> None:
    _, newest = two_snapshots(end)
    good, _ = state_file.read(newest)
    other = solver(end, 1, seed=8)
    before = everything(other)
    draw, taken, refused = random.Random(6), 0, 0
    for _ in range(300 if end else 1000):
        state = pb.SolverState()
        state.CopyFrom(good)
        for _ in range(draw.choice([1, 1, 2, 3])):
            mutate(state, draw)
        try:
            state_file.write(newest, state)
            if not checksum:
                without_checksum(state, newest)
        except WeightsError:                                   # no HDF5 file has such arrays
            continue
        try:
            other.restore(newest)
        except (SnapshotError, WeightsError) as e:
            assert newest in str(e) or "caffemodel" in str(e)
            assert everything(other) == before, state
            refused += 1
        else:
            assert (other.iter, other.current_step, other.losses) == (state.iter, state.current_step, list(state.loss_window))
            assert (other.average is not None) == bool(state.average)
            other = solver(end, 1, seed=8)
            taken += 1
    assert taken > 20 and refused > 100


@FORMATS
def test_damage_in_files_without_a_checksum_changes_all_or_nothing(end: str, quiet: None) -> None:
    """What protobuf and HDF5 still read, and what they raise on: there are a dozen kinds of exceptions."""
    _, newest = two_snapshots(end)
    without_checksum(state_file.read(newest)[0], newest)
    data = Path(newest).read_bytes()
    other = solver(end, 1, seed=8)
    before = everything(other)
    draw, refused = random.Random(7), 0
    for _ in range(400 if end else 1000):
        damaged = bytearray(data)
        for _ in range(draw.choice([1, 1, 2, 8])):
            damaged[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        Path(newest).write_bytes(damaged)
        try:
            other.restore(newest)
        except (SnapshotError, WeightsError) as e:
            assert newest in str(e)
            assert everything(other) == before
            refused += 1
        else:
            other = solver(end, 1, seed=8)
    assert refused > 50


CASES: dict[str, tuple[Callable[[pb.SolverState], object], str]] = {
    "iter": (lambda s: setattr(s, "iter", -2**31), "this is no solverstate, or a damaged one (it has iter -2147483648)"),
    "no iter": (lambda s: s.ClearField("iter"), "this is no solverstate, or a damaged one (it has no iter)"),
    "current_step": (lambda s: setattr(s, "current_step", 4), "this is no solverstate, or a damaged one (it has current_step 4 at iter 3)"),
    "iter_last_event": (lambda s: setattr(s, "iter_last_event", -1), "this is no solverstate, or a damaged one (it has iter_last_event -1)"),
    "minimum_loss": (lambda s: setattr(s, "minimum_loss", float("inf")), "this is no solverstate, or a damaged one (it has minimum_loss inf)"),
    "loss_window": (lambda s: s.loss_window.__setitem__(slice(None), [1, float("nan")]), "this is no solverstate, or a damaged one (it has loss_window [1.0, nan])"),
    "net": (lambda s: setattr(s.layer[0], "net", -5), "this is no solverstate, or a damaged one (it has a layer state with an impossible net number, count or name)"),
    "count": (lambda s: setattr(s.layer[0], "count", 2**63), "this is no solverstate, or a damaged one (it has a layer state with an impossible net number, count or name)"),
    "history": (lambda s: s.history.pop(), "the state has 4 histories; this solver and net need 5"),
    "shape of a history": (lambda s: s.history[0].shape.dim.__setitem__(slice(None), [3, 4]), "a history has the shape (3, 4), its parameter (4, 3)"),
    "values of a history": (lambda s: s.history[0].data.append(0), "this is no solverstate, or a damaged one (a blob of shape (4, 3) has 13 values)"),
    "averages": (lambda s: s.average.pop(), "the state has 4 averages; this net needs 5"),
    "shape of an average": (lambda s: s.average[0].shape.dim.__setitem__(slice(None), [2, 6]), "an average has the shape (2, 6), its parameter (4, 3)"),
    "a state of no kind": (lambda s: setattr(s.layer[0].user, "kind", pb.StateValue.ARRAY), "this is no solverstate, or a damaged one"),
}


@pytest.mark.parametrize("spoil, message", CASES.values(), ids=CASES.keys())
def test_what_does_not_fit_is_named(spoil: Callable[[pb.SolverState], object], message: str) -> None:
    _, newest = two_snapshots("")
    state, _ = state_file.read(newest)
    spoil(state)
    state_file.write(newest, state)
    other = solver("", 1, seed=8)
    before = everything(other)
    with pytest.raises(SnapshotError) as e:
        other.restore(newest)
    assert str(e.value).startswith(f"{newest}: {message}")
    assert everything(other) == before


def test_a_net_that_the_weights_do_not_fit_is_unchanged() -> None:
    _, newest = two_snapshots("")
    state, _ = state_file.read(newest)
    model = pb.NetParameter()
    model.ParseFromString(Path("s_iter_3.caffemodel").read_bytes())
    layer = next(x for x in model.layer if x.name == "ip")
    layer.blobs[0].shape.dim[:] = [1, 2]
    Path("s_iter_3.caffemodel").write_bytes(model.SerializeToString())
    state.ClearField("learned_net_sha256")
    state_file.write(newest, state)
    other = solver("", 1, seed=8)
    before = everything(other)
    with pytest.raises(WeightsError, match='blob 0 of layer "ip" has the shape'):
        other.restore(newest)
    assert everything(other) == before


def test_a_state_without_an_average_begins_a_new_one() -> None:
    s = solver()
    first = s.snapshot()
    s.step(2)
    s.restore(first)
    s.step(2)
    assert everything(s) == everything(solver("", 2))


def broken_hdf5() -> dict[str, Callable[[h5py.File], None]]:
    """Files that HDF5 opens, and that are no states."""
    def replace(name: str, value: Any) -> Callable[[h5py.File], None]:
        def spoil(file: h5py.File) -> None:
            del file[name]
            if value is not None:
                file[name] = value
        return spoil

    def group(name: str) -> Callable[[h5py.File], None]:
        def spoil(file: h5py.File) -> None:
            del file[name]
            file.create_group(name)
        return spoil
    found: dict[str, Callable[[h5py.File], None]] = {}
    for name in ("iter", "current_step", "learned_net", "history", "brew"):
        found[f"no {name}"] = replace(name, None)
        found[f"{name} of text"] = replace(name, "text")
        found[f"{name} of floats"] = replace(name, np.ones((2, 3)))
        found[f"{name} as a group"] = group(name)
    found["a history of text"] = replace("history/0", "text")
    found["a history as a group"] = group("history/0")
    found["a history is missing"] = replace("history/0", None)
    found["two values of iter"] = replace("iter", 4)
    found["huge"] = lambda file: (file.__delitem__("history/0"), file["history"].create_dataset("0", (2**40,), "f4")) and None
    return found


@pytest.mark.parametrize("spoil", broken_hdf5().values(), ids=broken_hdf5().keys())
def test_every_exception_of_h5py_is_a_snapshot_error(spoil: Callable[[h5py.File], None]) -> None:
    _, newest = two_snapshots(".h5")
    without_checksum(state_file.read(newest)[0], newest)
    with h5py.File(newest, "r+") as file:
        spoil(file)
    other = solver(".h5", 1, seed=8)
    before = everything(other)
    try:
        other.restore(newest)
    except SnapshotError as e:
        assert str(e).startswith(newest) and everything(other) == before
    else:
        assert "brew" not in h5py.File(newest)                 # as Caffe's: the rest is enough
