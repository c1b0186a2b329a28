"""Samplers: what batches are made of, in order, whatever the timing; observations; snapshots; and parts of a data
set."""
from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import brew
from brew.engine.blob import Blob
from brew.engine.errors import DataError, DeviceError, NetError
from brew.engine.layer import LAYERS, Layer, exactly
from brew.engine.random import permutation, words
from brew.layers.prefetch import BatchLayerState, Prefetcher
from brew.layers.samplers import Sampler, Sequential, Sharded, Shuffled, shuffles
from brew.proto import parse, pb


def test_sequential_goes_round() -> None:
    s = Sequential(5, 3)
    assert [s.draw(i).tolist() for i in range(3)] == [[0, 1, 2], [3, 4, 0], [1, 2, 3]]
    assert Sequential(5, 3, lambda: 2).draw(1).tolist() == [0, 1, 2]
    assert Sequential(2, 5).draw(0).tolist() == [0, 1, 0, 1, 0]


def test_shuffled_is_a_permutation_of_each_epoch_whatever_was_drawn_before() -> None:
    seed = [7]
    s = Shuffled(10, 4, lambda: seed[0], shuffles("d/shuffle", 10))
    flat = np.concatenate([permutation(7, "d/shuffle", epoch, 10) for epoch in range(5)])
    for i in (0, 1, 2, 9, 3, 2):
        assert s.draw(i).tolist() == flat[4 * i:4 * i + 4].tolist()
    seed[0] = 8
    assert s.draw(0).tolist() == permutation(8, "d/shuffle", 0, 10)[:4].tolist() and len(s.orders) <= 2


def test_shards_together_read_what_one_reads() -> None:
    parts = [Sharded(Sequential(100, 4), rank, 3) for rank in range(3)]
    for i in range(6):
        assert parts[i % 3].draw(i // 3).tolist() == Sequential(100, 4).draw(i).tolist()
    for rank in (-1, 3):
        with pytest.raises(ValueError, match=f"a rank lies between 0 and 2, found {rank}"):
            Sharded(Sequential(100, 4), rank, 3)
    with pytest.raises(ValueError, match="cannot be dealt out"):
        Sharded(ByLoss(4, 3), 0, 2)
    with pytest.raises(DeviceError, match="of 2 ranks, one lies between 0 and 1; found 2"):
        brew.Context(rank=2, ranks=2)


@pytest.fixture
def database(tmp_path: Path) -> str:
    with lmdb.open(str(tmp_path / "db"), map_size=1 << 24) as env, env.begin(write=True) as txn:
        for i in range(23):
            datum = pb.Datum(channels=1, height=1, width=2, data=bytes([i, 255 - i]), label=i)
            txn.put(f"{i:04}".encode(), datum.SerializeToString())
    return "db"


def data_net(phase: int = brew.TRAIN, shuffle: str = "") -> brew.Net:
    return brew.Net(parse(f"""layer {{ name: "d" type: "Data" top: "x" top: "y"
                              data_param {{ source: "db" batch_size: 3 {shuffle} }} }}""", pb.NetParameter()), phase, seed=5)


@pytest.mark.parametrize("shuffle", ["", "shuffle: true"])
def test_ranks_of_a_context_read_parts(database: str, shuffle: str) -> None:
    whole, parts = data_net(shuffle=shuffle), []
    for rank in range(2):
        with brew.Context(rank=rank, ranks=2):
            parts.append(data_net(shuffle=shuffle))
            assert data_net(brew.TEST, "").forward()["y"].tolist() == [0, 1, 2]        # tests are not dealt out
    for i in range(20):
        assert parts[i % 2].forward()["y"].tolist() == whole.forward()["y"].tolist()


def test_ranks_mirror_as_one_reader_does(database: str) -> None:
    def net() -> brew.Net:
        return brew.Net(parse("""layer { name: "d" type: "Data" top: "x" top: "y" transform_param { mirror: true }
                                 data_param { source: "db" batch_size: 3 } }""", pb.NetParameter()), brew.TRAIN, seed=5)
    whole, parts = net(), []
    for rank in range(2):
        with brew.Context(rank=rank, ranks=2):
            parts.append(net())
    for i in range(20):
        assert parts[i % 2].forward()["x"].tolist() == whole.forward()["x"].tolist()


def test_a_draw_that_fails_loses_no_batch() -> None:
    class Failing(Sequential):
        """Cannot draw batch 2 the first time."""

        failures = [2]

        def draw(self, number: int) -> np.ndarray:
            if number in self.failures:
                self.failures.remove(number)
                raise DataError("the index is gone")
            return super().draw(number)
    prefetcher = Prefetcher(Failing(9, 1), lambda number, draw: number, 2)
    assert [prefetcher.next() for _ in range(4)] == [0, 1, 2, 3]


def test_batches_of_a_shuffled_database_are_those_of_its_stream(database: str) -> None:
    net, order = data_net(shuffle="shuffle: true"), np.concatenate([permutation(5, "d/shuffle", e, 23)
                                                                    for e in range(3)])
    for i in range(20):
        out = net.forward()
        assert out["y"].tolist() == order[3 * i:3 * i + 3].tolist()
        assert out["x"].reshape(3, 2)[:, 0].tolist() == out["y"].tolist()


# --------------------------------------------------------------------------- a sampler with a state, and one that
# observes

class ByLoss(Sampler):
    """Draws items in proportion to their last loss."""

    def __init__(self, size: int, lag: int | None):
        self.lag, self.losses, self.draws, self.seen = lag, np.ones(size), 0, -1
        self.log: list[tuple[int, int]] = []                       # (batch drawn, last batch observed before)
        self.threads: set[int] = set()
        self.items: dict[int, np.ndarray] = {}

    def draw(self, number: int) -> Any:
        assert number == self.draws                                # each once, in order
        self.draws += 1
        self.threads.add(threading.get_ident())
        self.log.append((number, self.seen))
        sums = np.cumsum(self.losses)
        picks = words(1, "by loss", number, 2).astype(np.float64) / 2**32
        self.items[number] = np.searchsorted(sums, picks * sums[-1]).clip(0, len(sums) - 1)
        return {"items": self.items[number]}

    def observe(self, number: int, results: Mapping[str, np.ndarray]) -> None:
        assert number == self.seen + 1
        self.seen = number
        self.losses[self.items.pop(number)] = 1e-3 + results["each"].astype(np.float64)

    def state(self) -> Any:
        return {"losses": self.losses.copy(), "draws": self.draws, "seen": self.seen, "items": dict(self.items)}

    def restore(self, state: Any) -> None:
        self.losses, self.draws, self.seen = state["losses"].copy(), state["draws"], state["seen"]
        self.items = {number: items.copy() for number, items in state["items"].items()}


class Reader:
    """How long readers take, how far they read ahead, and how much later the sampler knows."""

    seconds, depth, lag = 0.0, 4, 3


class ByLossLayer(BatchLayerState, Layer):
    """Items 0 to 7 as one-hot rows, and their numbers."""

    bottoms, tops = exactly(0), exactly(2)
    observes = ("each",)
    is_stream = False

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.prefetcher = Prefetcher(ByLoss(8, Reader.lag), self._make, Reader.depth, workers=2)
        top[0].reshape(2, 8)
        top[1].reshape(2)

    @property
    def stream(self) -> bool:
        return self.is_stream

    def _make(self, number: int, draw: Any) -> Any:
        time.sleep(Reader.seconds * float(words(number, "sleep", 0, 1)[0] % 5))
        return draw["items"]

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        items = self.prefetcher.next()
        top[0].value.write()[...] = np.eye(8, dtype=np.float32)[items]
        top[1].value.write()[...] = items // 2


class StreamLayer(ByLossLayer):
    """The same as a stream."""

    is_stream = True


TRAINED = """
    layer { name: "d" type: "TestByLoss" top: "x" top: "y" }
    layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 4 weight_filler { type: "gaussian" std: 2 } } }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" top: "p" top: "each" }"""


def solver(more: str = "", net: str = TRAINED) -> brew.Solver:
    param = parse(f'base_lr: 0.3 momentum: 0.9 lr_policy: "fixed" random_seed: 2 snapshot_prefix: "s" {more}',
                  pb.SolverParameter())
    parse(net, param.net_param)
    return brew.get_solver(param)


def outcome(s: brew.Solver) -> list[Any]:
    return [[p.blob.data.tobytes() for p in s.net.learnable], s.losses]


@pytest.mark.parametrize("iter_size", [1, 3])
@pytest.mark.parametrize("lag, depth", [(3, 4), (1, 4), (5, 1)])
def test_a_draw_sees_exactly_the_observations_up_to_its_lag(lag: int, depth: int, iter_size: int,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reader, "lag", lag)
    monkeypatch.setattr(Reader, "depth", depth)
    results = []
    for sleep in (0.0, 0.002):
        monkeypatch.setattr(Reader, "seconds", sleep)
        s = solver(f"iter_size: {iter_size}")
        s.step(8)
        sampler = s.net.nodes[0].prefetcher.sampler
        assert [seen for _, seen in sampler.log] == [max(-1, number - lag) for number, _ in sampler.log]
        assert len(sampler.log) >= 8 * iter_size and sampler.threads == {threading.get_ident()}
        results.append(outcome(s))
    assert results[0] == results[1]


@pytest.mark.parametrize("end", ["", "snapshot_format: HDF5"], ids=["binary", "hdf5"])
@pytest.mark.parametrize("iter_size", [1, 2])
def test_resume_bit_for_bit(end: str, iter_size: int) -> None:
    whole, half, again = (solver(f"iter_size: {iter_size} {end}") for _ in range(3))
    whole.step(9)
    half.step(4)
    path = half.snapshot()
    half.step(2)                                                   # what the killed process did after its snapshot
    again.restore(path)
    again.step(5)
    assert outcome(again) == outcome(whole)


def test_an_iteration_that_is_undone_has_the_same_batches_again() -> None:
    whole, broken = solver("iter_size: 2"), solver("iter_size: 2")
    whole.step(7)
    fail = [0]

    def hook(i: int) -> None:
        fail[0] += 1
        if fail[0] in (5, 11, 12, 20):
            raise ZeroDivisionError
    broken.net.before_backward(hook)
    while broken.iter < 7:
        try:
            broken.step(1)
        except ZeroDivisionError:
            pass
    assert fail[0] > 20 and outcome(broken)[0] == outcome(whole)[0]


def test_an_observation_of_an_undone_iteration_does_not_count() -> None:
    """If what was changed before it is repeated changes its losses, the sampler is told the new ones."""
    smooth, broken = solver(), solver()
    for s in (smooth, broken):
        s.step(2)

    def fail() -> None:
        raise ZeroDivisionError
    broken.callbacks.append((lambda: None, fail))
    with pytest.raises(ZeroDivisionError):
        broken.step(1)
    broken.callbacks.clear()
    for s in (smooth, broken):
        s.net.params["ip"][0].data[...] *= -2
        s.step(6)
    assert outcome(smooth) == outcome(broken)


def test_copies_go_on_alike() -> None:
    s = solver()
    s.step(3)
    for twin in (copy.deepcopy(s), pickle.loads(pickle.dumps(s))):
        other = copy.deepcopy(s)
        other.step(4)
        twin.step(4)
        assert outcome(twin) == outcome(other)


def test_a_failing_reader_is_asked_for_the_same_batch_again(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = solver(), solver()
    whole.step(6)
    prefetcher = broken.net.nodes[0].prefetcher
    make, failures = prefetcher.make, [2, 2, 4]

    def failing(number: int, draw: Any) -> Any:
        if number in failures:
            failures.remove(number)
            raise DataError("the disk is gone")
        return make(number, draw)
    monkeypatch.setattr(prefetcher, "make", failing)
    while broken.iter < 6:
        try:
            broken.step(1)
        except DataError:
            pass
    assert not failures and outcome(broken) == outcome(whole)


def test_a_net_that_is_not_run_whole_is_told_why_there_is_no_batch() -> None:
    net = solver().net
    for _ in range(Reader.lag):
        net.run_forward(0, 0)
    with pytest.raises(DataError, match="batch 3 depends on what became of batch 0, which was not seen: run the whole net"):
        net.run_forward(0, 0)
    with pytest.raises(DataError, match="cannot go to batch 9"):
        net.nodes[0].batches = 9


def test_the_closing_loss_line_reads_no_stream(caplog: pytest.LogCaptureFixture) -> None:
    for kind, reads in (("TestByLoss", True), ("TestStream", False)):
        s = solver("max_iter: 4 display: 2 snapshot_after_train: false", TRAINED.replace("TestByLoss", kind))
        caplog.clear()
        with caplog.at_level("INFO"):
            s.solve()
        assert ("Iteration 4, loss" in caplog.text) == reads and s.iter == 4


class Observer(Layer):
    """Looks at blobs."""

    bottoms, tops = exactly(0), exactly(1)
    counter = "seen"

    def setup(self, bottom: list[Blob], top: list[Blob]) -> None:
        self.seen: Any = 0
        self.results: list[Mapping[str, np.ndarray]] = []
        top[0].reshape(8, 64, 6, 6)

    def forward(self, bottom: list[Blob], top: list[Blob]) -> None:
        top[0].value.write()[...] = np.random.default_rng(self.seen).standard_normal((8, 64, 6, 6))
        self.seen += 1

    def observe(self, results: Mapping[str, np.ndarray]) -> None:
        self.results.append(results)


class Some(Observer):
    """Two of them."""

    observes = ("conv", "sum")


class None_(Observer):
    """None."""


class Wrong(Observer):
    """One that is not there."""

    observes = ("convv",)


@pytest.fixture(autouse=True)
def types(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer types of this file are there for its tests only."""
    for name, cls in {"TestByLoss": ByLossLayer, "TestStream": StreamLayer, "TestObserver": Some,
                      "TestObserverNone": None_, "TestObserverWrong": Wrong}.items():
        monkeypatch.setitem(LAYERS, name, cls)


LARGE = """
    layer { name: "d" type: "%s" top: "x" }
    layer { name: "conv" type: "Convolution" bottom: "x" top: "conv" convolution_param { num_output: 64 kernel_size: 1 weight_filler { type: "xavier" } } }
    layer { name: "sum" type: "Eltwise" bottom: "conv" bottom: "x" top: "sum" }
    layer { name: "relu" type: "ReLU" bottom: "sum" top: "sum" }
    layer { name: "c2" type: "Convolution" bottom: "sum" top: "c2" convolution_param { num_output: 64 kernel_size: 3 weight_filler { type: "xavier" } } }
    layer { name: "r2" type: "ReLU" bottom: "c2" top: "c2" }
    layer { name: "c3" type: "Convolution" bottom: "c2" top: "c3" convolution_param { num_output: 64 kernel_size: 3 weight_filler { type: "xavier" } } }
    layer { name: "loss" type: "Reduction" bottom: "c3" top: "loss" loss_weight: 1 }"""


@pytest.mark.parametrize("phase", [brew.TEST, brew.TRAIN])
def test_observed_blobs_are_kept_and_layers_still_fused(phase: int, device: str) -> None:
    nets = [brew.Net(parse(LARGE % kind, pb.NetParameter()), phase, seed=1)
            for kind in ("TestObserver", "TestObserverNone")]
    for _ in range(2):
        for net in nets:
            net.run_forward(keep=False)
            if phase == brew.TRAIN:
                net.run_backward(keep=False)
    observed, plain = nets
    fused = [{n.nodes[i].name: [n.nodes[k].name for k in chain] for i, chain in n.fusions.items()} for n in nets]
    assert fused[0]["c2"] == fused[1]["c2"] == ["r2"] and fused[0]["sum"] == ["relu"]
    if phase == brew.TEST and device == "onednn":
        assert fused[1]["conv"] == ["sum", "relu"]                 # where nobody looks, conv is not even made
    layer = observed.nodes[0]
    assert len(layer.results) == 2 and set(layer.results[0]) == {"conv", "sum"} and not plain.nodes[0].results
    keeping = brew.Net(parse(LARGE % "TestObserverNone", pb.NetParameter()), phase, seed=1)
    keeping.keep_values = True
    for i in range(2):
        keeping.forward()
        for name, values in layer.results[i].items():
            assert np.allclose(values, keeping.blobs[name].data, atol=1e-4) and values.any()


def test_a_name_that_no_blob_has() -> None:
    with pytest.raises(NetError, match='"d".*wants to see blob "convv", which no layer makes\n  did you mean "conv"'):
        brew.Net(parse(LARGE % "TestObserverWrong", pb.NetParameter()), brew.TRAIN)
