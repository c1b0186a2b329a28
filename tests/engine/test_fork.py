"""A process that has run nets may fork: the child runs nets, the parent's and new ones, with the same bits."""
from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

import brew
from brew.engine import context as devices
from brew.engine import fork
from brew.engine.errors import DataError, DeviceError
from brew.layers.database import open_database
from brew.layers.prefetch import Prefetcher
from brew.layers.samplers import Sequential
from brew.proto import parse, pb
from brew.tools.database import write_database

SIZE = 24
HEAD = '''
layer { name: "conv" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 32 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "c" top: "c" }
layer { name: "pool" type: "Pooling" bottom: "c" top: "p" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "drop" type: "Dropout" bottom: "p" top: "p" }
layer { name: "ip" type: "InnerProduct" bottom: "p" top: "ip" inner_product_param { num_output: 4 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }'''
DATA = {
    "DummyData": 'dummy_data_param { shape { dim: 8 dim: 3 dim: 24 dim: 24 } shape { dim: 8 } data_filler { type: "gaussian" } data_filler { type: "constant" } }',
    "Data": 'transform_param { crop_size: 20 mirror: true scale: 0.01 } data_param { source: "db" batch_size: 8 shuffle: true }',
    "Data, in order": 'transform_param { scale: 0.01 } data_param { source: "db" batch_size: 8 }',
    "ImageData": 'transform_param { mirror: true scale: 0.01 } image_data_param { source: "images.txt" batch_size: 8 new_height: 20 new_width: 20 shuffle: true }',
    "HDF5Data": 'hdf5_data_param { source: "h5.txt" batch_size: 8 shuffle: true }',
    "WindowData": 'transform_param { crop_size: 20 mirror: true scale: 0.01 } window_data_param { source: "windows.txt" batch_size: 8 fg_fraction: 0.5 }',
}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    """Loops run on two threads, whatever OMP_NUM_THREADS says."""
    before = devices.cpu_device().threads
    brew.set_threads(2)
    yield
    brew.set_threads(before)


def write_data() -> None:
    """A file of each kind that a data layer reads."""
    import cv2
    import h5py
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 3, SIZE, SIZE), np.uint8)
    write_database(Path("db"), ((f"{i:04d}".encode(), pb.Datum(channels=3, height=SIZE, width=SIZE, data=x.tobytes(), label=i % 4)) for i, x in enumerate(images)))
    windows, listed = [], []
    for i, image in enumerate(images[:20]):
        cv2.imwrite(f"{i}.png", image.transpose(1, 2, 0))
        listed.append(f"{i}.png {i % 4}\n")
        windows.append(f"# {i}\n{i}.png\n3\n{SIZE}\n{SIZE}\n2\n{1 + i % 3} 0.9 2 3 20 21\n0 0.1 10 10 20 20\n")
    Path("images.txt").write_text("".join(listed))
    Path("windows.txt").write_text("".join(windows))
    with h5py.File("data.h5", "w") as file:
        file["x"], file["label"] = images.astype(np.float32) / 100, np.arange(40, dtype=np.float32) % 4
    Path("h5.txt").write_text("data.h5\n")


def make_solver(kind: str) -> Any:
    net = f'layer {{ name: "data" type: "{kind.partition(",")[0]}" top: "x" top: "label" {DATA[kind]} }}' + HEAD
    param = parse('base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 3 snapshot_after_train: false', pb.SolverParameter())
    param.net_param.CopyFrom(parse(net, pb.NetParameter()))
    return brew.get_solver(param)


def trained(solver: Any, steps: int) -> bytes:
    """The losses, weights and statistics after further steps."""
    solver.step(steps)
    return b"".join([np.float64(solver.losses[-1]).tobytes(), *(b.data.tobytes() for blobs in solver.net.params.values() for b in blobs)])


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` returns in a forked process, or raises there."""
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)

    def run() -> None:
        try:
            send.send(work())
        except BaseException as e:
            send.send(e)
    child = context.Process(target=run)
    child.start()
    try:
        assert receive.poll(60), "the child hangs"
        result = receive.recv()
    finally:
        child.kill()
        child.join()
    if isinstance(result, BaseException):
        raise result
    return result


@pytest.mark.parametrize("kind", DATA)
def test_a_child_goes_on_with_its_parents_solver_and_makes_its_own(kind: str) -> None:
    check_children(kind)


def test_so_on_every_device(device: str) -> None:
    if device == "gpu":                                          # CUDA does not survive a fork
        with pytest.raises(DeviceError, match="this process was forked from one that uses the GPU"):
            check_children("Data")
        return
    check_children("Data")


def check_children(kind: str) -> None:
    write_data()
    solver = make_solver(kind)
    first = trained(solver, 3)
    inherited = in_child(lambda: trained(solver, 7))             # more than the batches that were made ahead
    assert in_child(lambda: trained(make_solver(kind), 3)) == first
    assert in_child(lambda: in_child_of_child(solver)) == inherited
    assert trained(solver, 7) == inherited                       # the parent is where it was


def in_child_of_child(solver: Any) -> Any:
    """Seven steps, two in a forked process and five in one forked from it."""
    solver.step(2)
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=lambda: send.send(trained(solver, 5)))
    child.start()
    return receive.recv() if receive.poll(60) else child.kill()


def test_a_child_runs_a_net_of_the_parent(device: str) -> None:
    net = brew.Net(parse('layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 8 dim: 3 dim: 24 dim: 24 } } }'
                         'layer { name: "conv" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 32 kernel_size: 3 weight_filler { type: "xavier" } } }', pb.NetParameter()))
    x = np.random.default_rng(0).normal(size=(8, 3, 24, 24))
    y = net.forward(x=x)["y"].copy()
    if device == "gpu":
        with pytest.raises(DeviceError, match="this process was forked from one that uses the GPU"):
            in_child(lambda: net.forward(x=x))
        return
    for _ in range(3):
        assert (in_child(lambda: net.forward(x=x)["y"].copy()) == y).all()
    assert (net.forward(x=x)["y"] == y).all()


def test_a_pool_of_workers_runs_nets() -> None:
    write_data()
    solver = make_solver("Data")
    solver.step(1)
    states = [trained(make_solver("Data"), n) for n in (1, 2, 3)]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map_async(train_in_pool, [1, 2, 3]).get(60) == states


def train_in_pool(steps: int) -> bytes:
    return trained(make_solver("Data"), steps)


def test_lmdb_is_opened_anew_in_a_child() -> None:
    write_data()
    database, again = open_database("db"), open_database("db")
    env, records = database.env, database.read(np.arange(3), True)

    def child() -> bool:
        with pytest.raises(lmdb.Error):
            env.begin()                                          # LMDB: not to be used after fork()
        third = open_database("db")
        return all(d.read(np.arange(3), walk) == records for d in (database, again, third) for walk in (True, False)) and database.env is again.env is third.env
    assert in_child(child)
    assert database.read(np.arange(3), False) == records and database.env is env


def test_a_fork_waits_for_a_batch_in_the_making() -> None:
    """A library's lock that a thread holds while it makes a batch would never be released in the child."""
    lock, begun, end = threading.Lock(), threading.Event(), threading.Event()

    def make(batch: int) -> int:
        with lock:
            begun.set()
            end.wait(60)
            return batch
    prefetcher = Prefetcher(Sequential(100, 1), lambda batch, _: make(batch), 1)
    consumer = threading.Thread(target=prefetcher.next)
    consumer.start()
    begun.wait()
    threading.Timer(0.2, end.set).start()
    assert in_child(lambda: lock.acquire(timeout=5))
    assert in_child(lambda: prefetcher.next()) in (0, 1)
    consumer.join()


def test_a_fork_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fork, "PATIENCE", 0.1)
    end = threading.Event()
    prefetcher = Prefetcher(Sequential(100, 1), lambda batch, _: end.wait(60) and batch, 1)
    consumer = threading.Thread(target=prefetcher.next)
    consumer.start()
    assert in_child(lambda: 7) == 7
    end.set()
    consumer.join()
    assert prefetcher.next() == 1


def test_a_leveldb_stays_with_the_process_that_opened_it() -> None:
    plyvel = pytest.importorskip("plyvel", reason="no plyvel: pip install 'brew[leveldb]'")
    db = plyvel.DB("level", create_if_missing=True)
    for i in range(4):
        db.put(f"{i}".encode(), pb.Datum(channels=1, height=2, width=2, data=bytes(4), label=i).SerializeToString())
    db.close()
    net = brew.Net(parse('layer { name: "d" type: "Data" top: "x" data_param { source: "level" batch_size: 1 } }', pb.NetParameter()))
    net.forward()
    with pytest.raises(DataError) as e:
        in_child(net.forward)
    assert str(e.value) == ('level: this LevelDB was opened before the process was forked, and belongs to the parent\n  make the net in the child only, '
                            'start the child with multiprocessing\'s "spawn", or make an LMDB of it')
    net.forward()


def test_a_gpu_stays_with_the_process_that_began_with_it(shim: Any) -> None:
    class Elsewhere(shim.ShimBackend):                           # type: ignore[name-defined,misc]
        xp = type("cupy", (), {"__getattr__": lambda self, name: getattr(np, name)})()
    gpu = devices.Gpu(Elsewhere(order=1))
    gpu.enter()
    with pytest.raises(DeviceError) as e:
        in_child(gpu.enter)
    assert str(e.value) == ('this process was forked from one that uses the GPU, and CUDA cannot go on in it\n'
                            '  start processes with multiprocessing\'s "spawn", or use the GPU in the child only')
