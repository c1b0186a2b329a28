"""Storage: copies by device, layout and type, and blobs whose shape changes from batch to batch."""
from __future__ import annotations

from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import brew
from brew.engine.blob import Blob
from brew.engine.layer import LAYERS, Layer, exactly
from brew.engine.layout import PLAIN, laid_out
from brew.engine.memory import Memory
from brew.engine.store import BFLOAT16, DTYPES, FLOAT16, GPU, INT32, NO_INT, UINT8, Store, copy_key
from brew.proto import parse, pb, read_weights

RNG = np.random.default_rng(0)


def test_a_copy_has_one_key() -> None:
    assert copy_key("cpu", PLAIN, None) is PLAIN and copy_key("gpu", PLAIN, None) is GPU
    assert copy_key("cpu", PLAIN, INT32) is copy_key("cpu", PLAIN, np.dtype("int32"))
    assert copy_key("cpu", PLAIN, INT32) is not copy_key("gpu", PLAIN, INT32)
    assert len(DTYPES) == 5


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int32], ids=["half", "bfloat16", "int32"])
def test_floats_in_another_type(dtype: Any, device: str) -> None:
    memory, values = Memory((3, 4)), RNG.uniform(-9, 9, (3, 4)).astype(np.float32)
    memory.assign(values)
    found = memory.read_as(dtype)
    assert found.dtype == dtype and found.shape == (3, 4)
    assert np.array_equal(np.asarray(found if not hasattr(found, "get") else found.get()), values.astype(dtype))
    assert memory.read_as(dtype) is not None and memory.store.is_current(PLAIN)
    memory.assign(values + 1)                                      # the copy is out of date
    assert np.array_equal(np.asarray(memory.read_as(np.int32)), (values + 1).astype(np.int32))


def test_what_no_int_holds() -> None:
    memory = Memory((6,))
    memory.assign([np.nan, np.inf, -np.inf, 2.0**31, -1.9, 2.0**31 - 128])
    assert memory.read_as(np.int32).tolist() == [NO_INT, NO_INT, NO_INT, NO_INT, -1, 2**31 - 128]


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int32, np.uint8])
def test_values_that_came_in_another_type(dtype: Any, device: str) -> None:
    memory = Memory((2, 3))
    given = np.arange(6).reshape(2, 3).astype(dtype)
    memory.adopt(given)
    assert not memory.store.is_zero and memory.store.current == {copy_key("cpu", PLAIN, np.dtype(dtype))}
    assert np.array_equal(memory.plain(), given.astype(np.float32)) and memory.plain().dtype == np.float32
    found = memory.read()
    assert np.array_equal(found.get() if hasattr(found, "get") else found, given.astype(np.float32))
    memory.write_as(np.int32)[...] = 2**24 + 1                     # as an index may be
    found = memory.read_as(np.int32)
    assert int(found.reshape(-1)[0]) == 2**24 + 1 and float(memory.plain()[0, 0]) == 2**24
    memory.clear()
    assert memory.store.is_zero and not memory.plain().any()


def test_the_first_reader_decodes_and_the_others_find_it_done() -> None:
    calls = []

    def decode(pixels: Any, floats: Any, kernels: Any) -> None:
        calls.append(kernels)
        floats[...] = pixels.astype(np.float32) / 2
    memory = Memory((4,))
    for value in (10, 20):
        memory.adopt(np.full(4, value, np.uint8), decode)
        assert [float(memory.read()[0]), float(memory.plain()[1]), float(memory.expose()[2])] == [value / 2] * 3
    assert len(calls) == 2


def test_a_user_sees_the_floats_of_bytes_that_came_later() -> None:
    blob = Blob((2, 2))
    view = blob.data
    blob.value.adopt(np.full((2, 2), 7, np.uint8), lambda x, y, k: np.add(x, 0.5, out=y, casting="unsafe"))
    blob.value.settle(entering=False)
    assert view.tolist() == [[7.5, 7.5], [7.5, 7.5]]
    view[...] = 1
    blob.value.settle(entering=True)
    assert (blob.value.read() == 1).all() and not blob.value.store.is_current(copy_key("cpu", PLAIN, UINT8))


def test_states_by_name() -> None:
    store = Store(32)
    layout = laid_out((1, 8, 4), 8)
    assert store.is_zero and not store.is_given_up and store.layout is PLAIN and not store.nbytes
    store.write(layout)[...] = 1
    assert store.is_current(layout) and not store.is_current(PLAIN) and store.layout is layout
    store.read(PLAIN)
    assert store.current == {layout, PLAIN} and store.nbytes == 2 * 32 * 4
    store.give_up(lambda: store.write(PLAIN).fill(3))
    assert store.is_given_up and not store.is_zero and not store.nbytes
    assert (store.read(PLAIN) == 3).all() and not store.is_given_up
    view = store.expose().reshape(4, 8)
    assert store.is_looked_at()
    del view
    assert not store.is_looked_at()


@pytest.mark.parametrize("held", [False, True], ids=["", "held by the user"])
def test_resize_keeps_the_store_and_the_values_that_fit(held: bool) -> None:
    blob = Blob((4, 6))
    blob.variable = (1,)
    blob.value.assign(np.arange(24))
    store, memory = blob.value.store, blob.value
    view = blob.data if held else None
    for width in (3, 6, 9, 9, 2, 11, 40, 5):
        before = blob.value.plain().ravel().copy()
        blob.reshape(4, width)
        assert blob.value is memory and memory.store is store and memory.shape == (4, width) == blob.data.shape
        kept = min(len(before), 4 * width)
        assert (blob.value.plain().ravel()[:kept] == before[:kept]).all()
    assert view is None or view.shape == (4, 6)
    blob.reshape(5, 5)                                             # another axis: a new memory
    assert blob.value is not memory


def test_a_buffer_grows_and_stays() -> None:
    blob = Blob((2, 4))
    blob.variable = (1,)
    addresses = set()
    for i in range(1000):
        blob.reshape(2, 4 + (i * 7) % 500)
        addresses.add(blob.value.write().ctypes.data)
    assert len(addresses) < 20 and blob.value.store.nbytes <= 4 * 2 * 503 * 1.25


class Ragged(Layer):
    """Rows of numbers, as wide as the batch's widest, in a width that changes every batch."""

    bottoms, tops, counter = exactly(0), exactly(1), "batches"
    declared = True

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.batches, self.widths = 0, np.random.default_rng(3).integers(1, 200, 1000)
        top[0].variable = (1,) if self.declared else ()
        top[0].reshape(64, 1)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        width = int(self.widths[self.batches % 1000])
        top[0].reshape(64, width)
        top[0].value.write_as(INT32)[...] = np.random.default_rng(self.batches).integers(0, 50, (64, width))
        self.batches += 1


class Declared(Ragged):
    """With its axis declared variable."""


class Undeclared(Ragged):
    """With a shape that may change, and no more."""

    declared = False


@pytest.fixture(autouse=True)
def types(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer types of this file are there for its tests only."""
    for name, cls in {"TestRagged": Declared, "TestRaggedUndeclared": Undeclared}.items():
        monkeypatch.setitem(LAYERS, name, cls)


RAGGED = """
    layer { name: "data" type: "%s" top: "index" }
    layer { name: "embed" type: "Embed" bottom: "index" top: "v"
            embed_param { input_dim: 50 num_output: 8 weight_filler { type: "gaussian" std: 0.1 } } }
    layer { name: "relu" type: "ReLU" bottom: "v" top: "r" }
    layer { name: "power" type: "Power" bottom: "r" top: "p" power_param { shift: 1 } }
    layer { name: "again" type: "TanH" bottom: "r" top: "t" }
    layer { name: "sum" type: "Eltwise" bottom: "p" bottom: "t" top: "s" }
    layer { name: "loss" type: "Reduction" bottom: "s" top: "loss" loss_weight: 1e-5 reduction_param { operation: SUMSQ } }"""


def ragged_solver(kind: str) -> brew.Solver:
    return brew.get_solver(pb.SolverParameter(net_param=parse(RAGGED % kind, pb.NetParameter()), base_lr=0.1,
                                              momentum=0.9,
                                              lr_policy="fixed", random_seed=1))


def test_a_thousand_batches_of_changing_width_need_one_plan() -> None:
    with brew.Context() as context:
        solver = ragged_solver("TestRagged")
    solver.step(1)
    plans, most = solver.net.run.plans, 0
    stores = {id(m.store): m.store for blob in solver.net._blobs for m in (blob.value, blob.gradient)}.values()
    for _ in range(10):
        solver.step(100)
        most = max(most, sum(store.nbytes for store in stores) + context.pool.nbytes)
    assert solver.iter == 1001 and solver.net.run.plans == plans == 2         # one forward, one backward
    # index as int and float; seven blobs and gradients
    widest = 4 * 64 * 199 * (2 + 8 * 14)
    assert most <= 1.25 * widest


def test_declaring_an_axis_variable_changes_no_bit() -> None:
    solvers = [ragged_solver(kind) for kind in ("TestRagged", "TestRaggedUndeclared")]
    for solver in solvers:
        solver.step(50)
    assert solvers[0].net.run.plans < 4 < solvers[1].net.run.plans
    ours, theirs = ([p.blob.data.tobytes() for p in solver.net.learnable] for solver in solvers)
    assert ours == theirs and solvers[0].losses == solvers[1].losses


def test_labels_are_converted_once_for_all_their_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    from brew.engine import store as stores
    casts: list[Any] = []
    cast = stores.cast
    monkeypatch.setattr(stores, "cast", lambda xp, values, dtype: casts.append(dtype) or cast(xp, values, dtype))
    net = brew.Net(parse("""
        layer { name: "x" type: "Input" top: "x" top: "label" input_param { shape { dim: 4 dim: 5 } shape { dim: 4 } } }
        layer { name: "a" type: "Accuracy" bottom: "x" bottom: "label" top: "a" }
        layer { name: "a5" type: "Accuracy" bottom: "x" bottom: "label" top: "a5" accuracy_param { top_k: 2 } }""",
                         pb.NetParameter()), brew.TEST)
    net.blobs["label"].data[...] = [0, 1, 2, 3]
    net.forward()
    assert casts == [INT32]
    net.blobs["label"].data[...] = 4
    net.forward()
    assert len(casts) == 2


def test_a_net_in_half_precision(tmp_path: Any, shim: ModuleType) -> None:
    text = """layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 30 } } }
              layer { name: "ip" type: "InnerProduct" bottom: "x" top: "y"
                      inner_product_param { num_output: 40 weight_filler { type: "gaussian" } } }"""
    net, other = (brew.Net(parse(text, pb.NetParameter()), brew.TEST) for _ in range(2))
    net.save("whole.caffemodel")
    net.save("half.caffemodel", dtype="float16")
    assert 0.45 < (tmp_path / "half.caffemodel").stat().st_size / (tmp_path / "whole.caffemodel").stat().st_size < 0.55
    assert read_weights("half.caffemodel").layer[1].blobs[0].raw_data_type == pb.FLOAT16
    other.copy_from("half.caffemodel")
    for mine, theirs in zip(net.params["ip"], other.params["ip"]):
        assert np.array_equal(mine.data.astype(np.float16), theirs.data)
    net.params["ip"][1].data[3] = 1e6
    with pytest.raises(brew.BrewError, match='layer "ip".*1e\\+06 is too large for half precision'):
        net.save("half.caffemodel", dtype="float16")
    with pytest.raises(brew.BrewError, match="float32 or float16, found 'int8'"):
        net.save("half.caffemodel", dtype="int8")
    assert FLOAT16.itemsize == BFLOAT16.itemsize == 2
