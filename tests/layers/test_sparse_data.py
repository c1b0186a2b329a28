"""SparseData: rows as padded batches, their order, resuming, ranks, and errors for damaged records."""
from __future__ import annotations

import copy
import pickle
import struct
from collections.abc import Sequence
from pathlib import Path

import lmdb
import numpy as np
import pytest

import brew
from brew.engine.errors import DataError, NetError
from brew.engine.random import permutation
from brew.engine.store import INT32
from brew.kernels import cpu
from brew.layers.label_frequencies import read_label_frequencies, write_label_frequencies
from brew.proto import parse, pb
from brew.tools.cli import main
from brew.tools.convert_xc import Rows, write_rows
from brew.tools.database import write_database

Row = tuple[list[int], dict[int, float]]                 # labels, {feature: value}
RNG = np.random.default_rng(0)
FEATURES, LABELS = 50, 9


def some_rows(n: int = 23) -> list[Row]:
    """Row i has i % 4 labels and at most 12 features, its first value i + 1; some have no labels, row 5 no features."""
    rows: list[Row] = []
    for i in range(n):
        found = sorted(RNG.choice(FEATURES, 0 if i == 5 else int(RNG.integers(1, 13)), replace=False).tolist())
        values = {f: float(np.float32(v)) for f, v in zip(found, [i + 1, *RNG.normal(size=20)])}
        rows.append((sorted(RNG.choice(LABELS, i % 4, replace=False).tolist()), values))
    return rows


def write(rows: Sequence[Row], folder: str = "db") -> list[Row]:
    ints = ([len(labels) for labels, _ in rows], [len(f) for _, f in rows], [v for labels, _ in rows for v in labels],
            [v for _, f in rows for v in f])
    values = np.array([v for _, f in rows for v in f.values()], np.float32)
    write_rows(folder, [Rows(*(np.array(i, np.int32) for i in ints), values)], lambda: (FEATURES, LABELS))
    return list(rows)


def data(batch: int = 4, more: str = "", phase: int = brew.TRAIN, seed: int = 5,
         tops: Sequence[str] = ("value", "index", "label"), source: str = "db") -> brew.Net:
    names = " ".join(f'top: "{top}"' for top in tops)
    text = f"""layer {{ name: "d" type: "SparseData" {names}
                        sparse_data_param {{ source: "{source}" batch_size: {batch} {more} }} }}"""
    return brew.Net(parse(text, pb.NetParameter(), "net.prototxt"), phase, seed=seed)


def batch_of(rows: Sequence[Row]) -> tuple[np.ndarray, ...]:
    """Values, indices and labels of these rows as they should be."""
    width, most = (max(1, *map(len, part)) for part in zip(*rows))
    labels = [[*found, *[-1] * (width - len(found))] for found, _ in rows]
    index = [[*found, *[-1] * (most - len(found))] for _, found in rows]
    values = [[*found.values(), *[0.0] * (most - len(found))] for _, found in rows]
    return np.array(values, np.float32), np.array(index), np.array(labels)


def check(net: brew.Net, rows: Sequence[Row]) -> None:
    found = net.forward()
    for name, expected in zip(("value", "index", "label"), batch_of(rows)):
        assert found[name].shape == expected.shape == net.blobs[name].shape and (found[name] == expected).all(), name


def first_values(net: brew.Net, batches: int) -> list[list[float]]:
    """Which rows came, by their first values."""
    return [net.forward()["value"][:, 0].tolist() for _ in range(batches)]


# ----------------------------------------------------------------------------------------------------------- batches

def test_batches_are_as_wide_as_their_widest_row_and_padded(device: str) -> None:
    rows, net = write(some_rows()), data()
    assert net.blobs["value"].variable == net.blobs["label"].variable == (1,)
    widths = set()
    for i in range(12):
        check(net, [rows[(4 * i + k) % 23] for k in range(4)])
        widths.add((net.blobs["value"].shape[1], net.blobs["label"].shape[1]))
    assert len(widths) > 3


def test_rows_without_features_and_labels_are_one_wide() -> None:
    rows = write([([], {}), ([], {})])
    net = data(2)
    check(net, rows)
    assert net.blobs["value"].shape == net.blobs["label"].shape == (2, 1) and (net.blobs["label"].data == -1).all()


def test_the_labels_may_be_left_out() -> None:
    rows = write(some_rows())
    found = data(tops=("value", "index")).forward()
    assert set(found) == {"value", "index"} and (found["value"] == batch_of(rows[:4])[0]).all()


def test_large_numbers_are_exact() -> None:
    """Above 2^24, floats would round them."""
    labels, index = [2**24 + 1, 2**30 + 3], [2**30 + 1, 2**31 - 1]
    write(some_rows(1))
    put(b"00000000", record(labels, index))
    text = """layer { name: "d" type: "SparseData" top: "value" top: "index" top: "label"
                      sparse_data_param { source: "db" batch_size: 1 } }
              layer { name: "s" type: "Silence" bottom: "value" bottom: "index" bottom: "label" }"""
    net = brew.Net(parse(text, pb.NetParameter()))
    net.forward()
    assert net.blobs["index"].value.read_as(INT32).tolist() == [index]
    assert net.blobs["label"].value.read_as(INT32).tolist() == [labels]


def test_what_the_user_holds_is_filled(device: str) -> None:
    rows, net = write(some_rows(4)), data(2)
    held = {name: blob.data for name, blob in net.blobs.items()}
    assert held
    for i in range(4):
        net.forward()
        for name, expected in zip(("value", "index", "label"), batch_of([rows[(2 * i + k) % 4] for k in range(2)])):
            assert (net.blobs[name].data == expected).all()


# ------------------------------------------------------------------------------------------------------------- order

def test_a_shuffled_epoch_has_each_row_once_in_the_order_of_its_stream() -> None:
    write(some_rows())
    found = np.concatenate(first_values(data(5, "shuffle: true"), 14))
    orders = np.concatenate([permutation(5, "d/shuffle", epoch, 23) for epoch in range(4)])[:70] + 1.0
    orders[orders == 6] = 0                              # the row without features
    assert found.tolist() == orders.tolist() and found[:23].tolist() != found[23:46].tolist()


@pytest.mark.parametrize("more", ["", "shuffle: true"])
def test_ranks_read_parts_of_the_batches_and_tests_are_not_dealt_out(more: str) -> None:
    write(some_rows())
    whole, parts = first_values(data(3, more), 20), []
    for rank in range(2):
        with brew.Context(rank=rank, ranks=2):
            parts.append(first_values(data(3, more), 10))
            assert first_values(data(3, phase=brew.TEST), 1) == [[1, 2, 3]]
    assert [parts[i % 2][i // 2] for i in range(20)] == whole


@pytest.mark.parametrize("prefetch", [1, 9])
def test_any_batch_can_be_gone_to(prefetch: int) -> None:
    write(some_rows())
    whole, late = first_values(data(3, "shuffle: true"), 12), data(3, f"shuffle: true prefetch: {prefetch}")
    late.layers[0].batches = 7  # type: ignore[attr-defined]
    assert first_values(late, 5) == whole[7:]


TRAINED = """
    layer { name: "d" type: "SparseData" top: "value" top: "index" top: "label"
            sparse_data_param { source: "db" batch_size: 4 shuffle: true } }
    layer { name: "fc1" type: "InnerProduct" bottom: "value" bottom: "index" top: "fc1"
            inner_product_param { num_output: 16 input_dim: 50 weight_filler { type: "xavier" } } }
    layer { name: "relu" type: "ReLU" bottom: "fc1" top: "fc1" }
    layer { name: "fc2" type: "InnerProduct" bottom: "fc1" top: "fc2"
            inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
    layer { name: "cut" type: "Slice" bottom: "label" top: "first" top: "rest" slice_param { slice_point: 1 } }
    layer { name: "flat" type: "Reshape" bottom: "first" top: "class" reshape_param { shape { dim: -1 } } }
    layer { name: "none" type: "Silence" bottom: "rest" }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "fc2" bottom: "class" top: "loss"
            loss_param { ignore_label: -1 } }"""


def planted(n: int = 60) -> list[Row]:
    """The first label is the class, found by any of its five features; there are others among them, and more labels."""
    rows: list[Row] = []
    for i in range(n):
        own = RNG.choice(5, 3, replace=False) + 5 * (i % 3)
        found = np.unique(np.concatenate([own, RNG.integers(20, FEATURES, int(RNG.integers(1, 9)))]))
        rows.append(([i % 3, *sorted(set(RNG.integers(3, LABELS, 2).tolist()))], {int(f): 1.0 for f in found}))
    return rows


def solver(seed: int = 1, kind: str = 'type: "Adam" base_lr: 0.01') -> brew.Solver:
    param = parse(f'{kind} lr_policy: "fixed" snapshot_prefix: "s" average_loss: 50', pb.SolverParameter())
    param.net_param.CopyFrom(parse(TRAINED, pb.NetParameter()))
    param.random_seed = seed
    return brew.get_solver(param)


def state(s: brew.Solver) -> list[bytes]:
    return [np.array(s.losses).tobytes(), *(p.blob.data.tobytes() for p in s.net.learnable)]


@pytest.mark.parametrize("kind", ['type: "Adam" base_lr: 0.01', "base_lr: 0.2 momentum: 0.5"])
def test_a_net_of_two_layers_learns_from_it(kind: str, device: str) -> None:
    write(planted())
    s = solver(kind=kind)
    s.step(1)
    first = s.losses[-1]
    s.step(120)
    assert first > 0.7 and max(list(s.losses)[-10:]) < 0.05
    assert s.net.run.plans == 2                          # widths that change need no new plan


def test_a_resumed_training_goes_on_bit_for_bit_in_a_solver_of_another_seed() -> None:
    write(planted())
    whole = solver(1)
    whole.step(7)
    file = whole.snapshot()
    whole.step(40)
    resumed = solver(2)
    resumed.step(3)
    resumed.restore(file)
    resumed.step(40)
    assert state(resumed) == state(whole)


@pytest.mark.parametrize("way", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["copy", "pickle"])
def test_a_copied_training_goes_on_with_the_same_bits(way) -> None:  # type: ignore[no-untyped-def]
    write(planted())
    whole = solver()
    whole.step(5)
    other = way(whole)
    whole.step(9)
    other.step(9)
    assert state(other) == state(whole)


# ------------------------------------------------------------------------------------------------------------ errors

def put(key: bytes, record: bytes, folder: str = "db") -> None:
    with lmdb.open(str(Path(folder).resolve()), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(key, record)


def record(labels: Sequence[int] = (1,), index: Sequence[int] = (2, 4), values: Sequence[float] = (1, 2),
           head: bytes = b"BXC\1") -> bytes:
    return head + struct.pack(f"<ii{len(labels)}i{len(index)}i{len(values)}f", len(labels), len(index), *labels, *index,
                              *values)


NONE = "it is no row of labels and features, as brew convert_xc writes them"
CUT = "it is cut off or damaged: its length is not what it says"
LABELS_FALL, INDICES_FALL = (f"it is damaged: its {what} do not rise" for what in ("labels", "indices"))
NOT_FINITE = "it is damaged: a value is not finite"
DAMAGED = [
    (b"", NONE), (record()[:11], NONE), (pb.Datum(channels=1, data=b"123456789").SerializeToString(), NONE),
    (record(head=b"BXC\2"), "it has a version that this brew does not know"),
    (record()[:-1], CUT), (record() + b"0", CUT), (record(values=[1]), CUT), (b"BXC\1" + b"\xff\xff\xff\x7f" * 2, CUT),
    (b"BXC\1" + struct.pack("<iii", -1, 2, 1), CUT), (record([3, 3]), LABELS_FALL), (record([-1]), LABELS_FALL),
    (record(index=[4, 2]), INDICES_FALL), (record(index=[-1, 2]), INDICES_FALL),
    (record(values=[1, np.nan]), NOT_FINITE), (record(values=[-np.inf, 0]), NOT_FINITE)]


@pytest.mark.parametrize("damaged, why", DAMAGED)
@pytest.mark.parametrize("more", ["", "shuffle: true"])
def test_a_damaged_record_is_named_by_its_key(damaged: bytes, why: str, more: str) -> None:
    write(some_rows())
    put(b"00000006", damaged)
    net = data(4, more)
    with pytest.raises(DataError) as e:
        first_values(net, 6)
    assert str(e.value) == f"db: record '00000006' cannot be used: {why}\n  read by layer \"d\""


def test_a_whole_record_is_taken() -> None:
    """So that the damage above is what is refused."""
    write(some_rows())
    put(b"00000006", record())
    assert first_values(data(4), 6)[1][2] == 1


def test_every_cut_and_every_changed_byte_is_an_error_or_harmless() -> None:
    whole = record([1, 5], [2, 4, 9], [1, 2, 3])
    for k in range(len(whole)):
        assert cpu.widest_row([whole, whole[:k]])[2] == 1
        for bit in range(8):
            changed = whole[:k] + bytes([whole[k] ^ 1 << bit]) + whole[k + 1:]
            labels, features, number, why = cpu.widest_row([changed])
            assert (number == 0) == bool(why) and (why or (labels, features) == (2, 3))
            if not why:
                values, index = np.empty((1, 3), np.float32), np.empty((1, 3), np.int32)
                label = np.empty((1, 2), np.int32)
                cpu.join_rows([changed], values, index, label)
                assert np.isfinite(values).all() and (index >= 0).all() and (label >= 0).all()


def test_a_database_of_images_is_refused_when_the_net_is_built() -> None:
    write_database(Path("db"), [(b"00000000", pb.Datum(channels=1, height=2, width=2, data=b"abcd"))])
    with pytest.raises(DataError, match=f"db: record '00000000' cannot be used: {NONE}\n  read by layer \"d\""):
        data()


@pytest.mark.parametrize("param, error, message", [
    ('source: "nowhere" batch_size: 2', DataError, "nowhere: there is no LMDB here"),
    ('source: "db"', NetError, 'layer "d" (type "SparseData"): batch_size must be given, and be more than 0'),
    ("batch_size: 2", NetError, 'layer "d" (type "SparseData"): source must name a database'),
    ('source: "db" batch_size: 2 } transform_param { scale: 2', NetError,
     'layer "d" (type "SparseData"): transform_param is for images')])
def test_bad_parameters_are_errors_with_a_line(param: str, error: type[Exception], message: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    write(some_rows())
    text = f'layer {{ name: "d" type: "SparseData" top: "v" top: "i"\n sparse_data_param {{ {param} }} }}'
    with pytest.raises(error) as e:
        brew.Net(parse(text, pb.NetParameter(), "net.prototxt"))
    assert message in str(e.value) and (error is DataError or str(e.value).startswith("net.prototxt:"))
    Path("net.prototxt").write_text(text)
    assert main(["check", "-model", "net.prototxt"]) == (error is NetError)      # data may be elsewhere: a note
    said = capsys.readouterr()
    assert message in said.out + said.err


def test_check_summary_and_time_run_on_it(capsys: pytest.CaptureFixture[str]) -> None:
    write(planted())
    Path("net.prototxt").write_text(TRAINED)
    for command in (["check"], ["summary"], ["time", "-iterations", "3"]):
        assert main([*command, "-model", "net.prototxt"]) == 0
    assert "SparseData" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------- label frequencies

def test_label_frequencies_are_read_as_written() -> None:
    rows = write(some_rows())
    examples, counts = read_label_frequencies("db/label_frequencies.txt")
    assert examples == 23 and counts.dtype == np.int64
    assert counts.tolist() == np.bincount([v for labels, _ in rows for v in labels], minlength=LABELS).tolist()
    write_label_frequencies("again", 7, 5, np.array([0, 7, 3]))
    assert Path("again").read_text() == "7 5 3\n0\n7\n3\n" and read_label_frequencies("again")[1].tolist() == [0, 7, 3]
    Path("short").write_text("7\n0\n7")
    assert [read_label_frequencies("short")[0], *read_label_frequencies("short")[1]] == [7, 0, 7]


HEAD, COUNT = "1: the first line must be the number of examples", "a label's count must lie between 0 and 5"


@pytest.mark.parametrize("text, message", [
    ("", HEAD), ("a\n1\n", HEAD), ("-3\n1\n", HEAD), ("1 2\n1\n", HEAD),
    ("5 1 2\n1\n", "1: the first line promises 2 labels; 1 counts follow"),
    ("5 1 2\n1\n6\n", f"3: {COUNT}, the number of examples; found '6'"), ("5\n1\n-1\n", f"3: {COUNT}"),
    ("5\n1\n\n2\n", f"3: {COUNT}"), ("5\n1 2\n", f"2: {COUNT}"), ("5\n1\n1.0\n", f"3: {COUNT}"),
    ("5\n1\n\xb2\n", f"3: {COUNT}")])
def test_damaged_label_frequencies_are_named_by_their_line(text: str, message: str) -> None:
    Path("f").write_text(text)
    with pytest.raises(DataError) as e:
        read_label_frequencies("f")
    assert str(e.value).startswith(f"f:{message}")
