"""How fast records become batches: the Data layer beside a plain loop over OpenCV, and whether training waits for it.

    python benchmarks/data.py [--records 1000] [--threads 2]

Raw 256 x 256 records and JPEGs of that size, cropped to 227 and mirrored; the loops are interleaved, figures are medians.
Where `brew data` has made the databases of LeNet and CIFAR-10 quick (run this from the folder above data/), it also counts
how often 500 iterations of their training waited for a batch.
"""
from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import cv2
import lmdb
import numpy as np

import brew
from brew.proto import parse, pb, read_solver
from brew.tools.database import write_database

BATCH, CROP = 50, 227


def make(folder: Path, count: int, jpeg: bool) -> Path:
    """A database of smooth random pictures, which compress as photographs do."""
    rng = np.random.default_rng(0)

    def records():  # type: ignore[no-untyped-def]
        for i in range(count):
            image = cv2.resize(rng.integers(0, 256, (32, 32, 3), np.uint8), (256, 256), interpolation=cv2.INTER_CUBIC)
            data = cv2.imencode(".jpg", image)[1].tobytes() if jpeg else image.transpose(2, 0, 1).tobytes()
            yield f"{i:08d}".encode(), pb.Datum(channels=3, height=256, width=256, data=data, encoded=jpeg, label=i % 10)
    write_database(folder, records())
    return folder


def layer(folder: Path) -> brew.Net:
    return brew.Net(parse(f'''layer {{ name: "d" type: "Data" top: "data" top: "label" transform_param {{ crop_size: {CROP} mirror: true mean_value: 104 mean_value: 117 mean_value: 123 }}
        data_param {{ source: "{folder}" batch_size: {BATCH} backend: LMDB }} }}''', pb.NetParameter()), brew.TRAIN, seed=1)


def plain_loop(folder: Path) -> float:
    """Images/s of the obvious Python: read, decode, crop, flip, subtract, transpose."""
    rng, mean = np.random.default_rng(0), np.array([104, 117, 123], np.float32)
    done, start = 0, perf_counter()
    with lmdb.open(str(folder.resolve()) + "/copy", readonly=True, lock=False) as env, env.begin() as txn:
        batch = np.empty((BATCH, 3, CROP, CROP), np.float32)
        for _, value in txn.cursor():
            datum = pb.Datum.FromString(value)
            image = cv2.imdecode(np.frombuffer(datum.data, np.uint8), cv2.IMREAD_COLOR) if datum.encoded else np.frombuffer(datum.data, np.uint8).reshape(3, 256, 256).transpose(1, 2, 0)
            top, left = rng.integers(0, 256 - CROP + 1, 2)
            image = image[top:top + CROP, left:left + CROP]
            image = cv2.flip(image, 1) if rng.random() < 0.5 else image
            batch[done % BATCH] = (image.astype(np.float32) - mean).transpose(2, 0, 1)
            done += 1
    return done / (perf_counter() - start)


def of_layer(net: brew.Net, count: int) -> float:
    images, start = net.blobs["data"].value, perf_counter()
    for _ in range(count // BATCH):
        net.run_forward()
        images.read()                                          # as floats, which the first layer of a net asks for
    return count / (perf_counter() - start)


def waits(name: str) -> str:
    """A line about 500 iterations of a model's training on its database."""
    param = read_solver(f"models/{name}/solver.prototxt")
    for field in ("test_iter", "test_interval", "snapshot", "display", "snapshot_prefix"):
        param.ClearField(field)
    solver = brew.get_solver(param)
    prefetcher = solver.net.layers[0].prefetcher  # type: ignore[attr-defined]
    solver.step(20)
    late, start = prefetcher.late, perf_counter()
    solver.step(500)
    return f"{name}: {2 * (perf_counter() - start):.2f} ms an iteration with its data, {prefetcher.late - late} of 500 iterations waited for a batch"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    brew.set_threads(args.threads)
    print("| records | Data layer, images/s | plain OpenCV loop, images/s | ratio |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as temporary:
        for name, jpeg in (("raw 256 x 256", False), ("JPEG 256 x 256", True)):
            folder = make(Path(temporary) / name.split()[0], args.records, jpeg)
            make(folder / "copy", args.records, jpeg)          # LMDB opens a folder once in a process
            net = layer(folder)
            of_layer(net, args.records)
            ours, theirs = [], []
            for _ in range(5):
                ours.append(of_layer(net, args.records))
                theirs.append(plain_loop(folder))
            net.layers[0].prefetcher.close()  # type: ignore[attr-defined]
            print(f"| {name} | {median(ours):.0f} | {median(theirs):.0f} | {median(ours) / median(theirs):.2f} |")
    for name, database in (("lenet", "data/mnist/mnist_train_lmdb"), ("cifar10_quick", "data/cifar10/cifar10_train_lmdb")):
        if Path(database).exists():
            print(waits(name))


if __name__ == "__main__":
    main()
