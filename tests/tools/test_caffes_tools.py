"""The tools that Caffe has beside its command line: their output is what Caffe writes, and another of them reads it."""
from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest

import brew
from brew.proto import pb, read_net, read_solver
from brew.pycaffe.io import blobproto_to_array
from brew.tools.cli import main
from brew.tools.database import DatabaseWriter, datum_to_array
from brew.tools.parse_log import parse

MODELS = Path(__file__).resolve().parents[2] / "models"


def run(*args: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "brew.tools.cli", *map(str, args)], cwd=cwd, capture_output=True, text=True, timeout=300)


def records(folder: Path) -> dict[str, pb.Datum]:
    with lmdb.open(str(folder), readonly=True, lock=False) as env, env.begin() as txn:
        return {key.decode(): pb.Datum.FromString(value) for key, value in txn.cursor()}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Eight pictures, one with a space in its name, and a list of them."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    names = [f"p{i}.png" for i in range(6)] + ["a photo.jpg", "b.jpg"]
    for i, name in enumerate(names):
        cv2.imwrite(str(tmp_path / "images" / name), rng.integers(0, 256, (20, 24, 3), np.uint8))
    (tmp_path / "list.txt").write_text("".join(f"{name} {i % 3}\n" for i, name in enumerate(names)))
    return tmp_path


def test_raw_records_are_caffes(pictures: Path) -> None:
    result = run("convert_imageset", "images/", "list.txt", "db", cwd=pictures)
    assert result.returncode == 0 and "db: 8 records" in result.stdout
    found = records(pictures / "db")
    assert list(found) == [f"{i:08d}_p{i}.png" for i in range(6)] + ["00000006_a photo.jpg", "00000007_b.jpg"]
    for i, (key, datum) in enumerate(found.items()):
        image = cv2.imread(str(pictures / "images" / key[9:]))
        assert (datum.channels, datum.height, datum.width, datum.label, datum.encoded) == (3, 20, 24, i % 3, False)
        assert (datum_to_array(datum) == image.transpose(2, 0, 1)).all()
    assert not (pictures / "db" / "lock.mdb").exists() and not list(pictures.glob(".*.part"))


def test_sizes_gray_and_orders(pictures: Path) -> None:
    shuffle = ("--shuffle", "--seed=3", "-resize_width=10", "--resize-height", "8", "--gray=true", "--encoded=0", "--nocheck_size")
    assert run("convert_imageset", *shuffle, "images/", "list.txt", "one", cwd=pictures).returncode == 0
    assert run("convert_imageset", *shuffle, "--threads", "1", "images/", "list.txt", "two", cwd=pictures).returncode == 0
    one, two = records(pictures / "one"), records(pictures / "two")
    assert one == two and [key[9:] for key in one] != sorted(key[9:] for key in one) and {key[9:] for key in one} >= {"p0.png", "a photo.jpg"}
    key, datum = next(iter(one.items()))
    expected = cv2.resize(cv2.imread(str(pictures / "images" / key[9:]), cv2.IMREAD_GRAYSCALE), (10, 8))
    assert (datum.channels, datum.height, datum.width) == (1, 8, 10) and (datum_to_array(datum)[0] == expected).all()


def test_encoded_records_are_the_files(pictures: Path) -> None:
    assert run("convert_imageset", "--encoded", "images/", "list.txt", "db", cwd=pictures).returncode == 0
    for key, datum in records(pictures / "db").items():
        assert datum.encoded and datum.data == (pictures / "images" / key[9:]).read_bytes() and not datum.HasField("channels")
    assert run("convert_imageset", "--encode_type", "png", "--resize_width", "6", "--resize_height", "5", "images/", "list.txt", "png", cwd=pictures).returncode == 0
    assert all(datum_to_array(datum).shape == (3, 5, 6) and datum.data[:4] == b"\x89PNG" for datum in records(pictures / "png").values())


def test_broken_pictures_are_left_out_listed_and_counted(pictures: Path) -> None:
    (pictures / "images/p1.png").write_text("no picture")
    (pictures / "images/p2.png").write_bytes(b"")
    (pictures / "images/p3.png").unlink()
    (pictures / "images/b.jpg").write_bytes((pictures / "images/b.jpg").read_bytes()[:-80])       # cut off
    result = run("convert_imageset", "--encoded", "images/", "list.txt", "db", cwd=pictures)
    assert result.returncode == 1 and "left out: images/p1.png: no picture that OpenCV reads" in result.stderr and "p2.png: an empty file" in result.stderr
    assert "p3.png: No such file" in result.stderr and "pictures are broken and left out" in result.stdout
    assert {"00000000_p0.png", "00000004_p4.png"} <= set(records(pictures / "db"))                # keys keep their numbers


@pytest.mark.parametrize("arguments, message", [
    (("images/", "missing.txt", "db"), "missing.txt"), (("images/", "nolabel.txt", "db"), "nolabel.txt:2: a path, a space and a label are needed"),
    (("nowhere/", "list.txt", "db"), "none of the 8 pictures can be read"), (("images/", "list.txt", "taken"), "there is something here already"),
    (("--resize_width", "5", "images/", "list.txt", "db"), "given together"), (("--backend", "rocksdb", "images/", "list.txt", "db"), "lmdb or leveldb"),
    (("--check_size", "images/", "sizes.txt", "db"), "where the pictures before have 1440"), (("--encode_type", "zip", "images/", "list.txt", "db"), 'no way to encode "zip"'),
    (("images/", "list.txt", "file/db"), "cannot be written")])
def test_bad_input_is_named(arguments: tuple[str, ...], message: str, pictures: Path) -> None:
    (pictures / "nolabel.txt").write_text("p0.png 1\np1.png\n")
    (pictures / "taken").mkdir()
    (pictures / "file").write_text("")
    cv2.imwrite(str(pictures / "images/large.png"), np.zeros((30, 30, 3), np.uint8))
    (pictures / "sizes.txt").write_text("p0.png 1\nlarge.png 1\n")
    result = run("convert_imageset", *arguments, cwd=pictures)
    assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr and not (pictures / "db").exists()
    assert not list(pictures.glob(".*.part"))


def test_a_database_grows_as_it_must(tmp_path: Path) -> None:
    value = bytes(1 << 20)
    with DatabaseWriter(tmp_path / "db") as database:
        for i in range(300):                                       # more than the map it begins with
            database.put(f"{i:08d}".encode(), value)
    with lmdb.open(str(tmp_path / "db"), readonly=True, lock=False) as env:
        assert env.stat()["entries"] == 300


def test_leveldb(pictures: Path) -> None:
    pytest.importorskip("plyvel")
    assert run("convert_imageset", "--backend=leveldb", "images/", "list.txt", "db", cwd=pictures).returncode == 0
    result = run("compute_image_mean", "db", "mean.binaryproto", cwd=pictures)
    assert result.returncode == 0 and (pictures / "mean.binaryproto").exists()


@pytest.mark.parametrize("flags", [(), ("--encoded",)])
def test_the_mean_of_a_database(flags: tuple[str, ...], pictures: Path) -> None:
    run("convert_imageset", *flags, "images/", "list.txt", "db", cwd=pictures)
    result = run("compute_image_mean", "db", "mean.binaryproto", cwd=pictures)
    blob = pb.BlobProto.FromString((pictures / "mean.binaryproto").read_bytes())
    images = [cv2.imread(str(p)).transpose(2, 0, 1).astype(float) for p in (pictures / "images").iterdir()]
    assert result.returncode == 0 and (blob.num, blob.channels, blob.height, blob.width) == (1, 3, 20, 24)
    np.testing.assert_allclose(blobproto_to_array(blob)[0], np.mean(images, 0), rtol=1e-6)
    assert "Number of channels: 3" in result.stderr and f"mean_value channel [0]: {np.mean(images, 0)[0].mean():g}" in result.stderr
    with DatabaseWriter(pictures / "mixed") as database:
        for i, size in enumerate((2, 3)):
            database.put(f"{i}".encode(), pb.Datum(channels=1, height=size, width=1, data=bytes(size)).SerializeToString())
    result = run("compute_image_mean", "mixed", cwd=pictures)
    assert result.returncode == 1 and "record '1' has the size (1, 3, 1), those before have (1, 2, 1)" in result.stderr


def test_features_of_a_net(pictures: Path) -> None:
    run("convert_imageset", "images/", "list.txt", "db", cwd=pictures)
    (pictures / "net.prototxt").write_text("""
        layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "db" batch_size: 4 } transform_param { scale: 0.00390625 } }
        layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 5 stride: 4 weight_filler { type: "xavier" } } }
        layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
        layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
        layer { name: "silence" type: "Silence" bottom: "label" }""")
    brew.Net(pictures / "net.prototxt", brew.TEST, seed=1).save(pictures / "w.caffemodel")
    result = run("extract_features", "w.caffemodel", "net.prototxt", "conv,ip", "conv_db,ip_db", "2", "lmdb", cwd=pictures)
    assert result.returncode == 0 and "ip_db: 8 features of ip" in result.stdout, result.stderr
    conv, ip = records(pictures / "conv_db"), records(pictures / "ip_db")
    assert list(ip) == [f"{i:010d}" for i in range(8)] and (conv["0000000000"].channels, conv["0000000000"].height, conv["0000000000"].width) == (2, 4, 5)
    weights = pb.NetParameter.FromString((pictures / "w.caffemodel").read_bytes())
    w, b = (np.array(blob.data) for blob in next(layer for layer in weights.layer if layer.name == "ip").blobs)
    np.testing.assert_allclose([d.float_data for d in ip.values()], np.array([d.float_data for d in conv.values()]) @ w.reshape(3, -1).T + b, rtol=1e-4, atol=1e-5)
    for arguments, message in ((("ipp", "x"), 'no blob "ipp"'), (("ip,conv", "x"), "one database for each blob"), (("ip", "ip_db"), "there is something here already")):
        result = run("extract_features", "w.caffemodel", "net.prototxt", *arguments, "1", "lmdb", cwd=pictures)
        assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr


def test_features_of_the_items_that_a_filter_keeps(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["keep"] = np.arange(12, dtype=np.float32).reshape(6, 2), np.array([0, 0, 0, 1, 0, 1])
    (tmp_path / "x.txt").write_text("x.h5")
    (tmp_path / "net.prototxt").write_text("""
        layer { name: "d" type: "HDF5Data" top: "x" top: "keep" hdf5_data_param { source: "x.txt" batch_size: 3 } }
        layer { name: "f" type: "Filter" bottom: "x" bottom: "keep" top: "kept" }
        layer { name: "ip" type: "InnerProduct" bottom: "kept" top: "ip" inner_product_param { num_output: 2 } }""")
    brew.Net(tmp_path / "net.prototxt", brew.TEST, seed=1).save(tmp_path / "w.caffemodel")
    arguments = ("w.caffemodel", "net.prototxt", "kept,ip", "kept_db,ip_db", "2", "lmdb")
    result = run("extract_features", *arguments, cwd=tmp_path)
    assert result.returncode == 0 and "ip_db: 2 features of ip" in result.stdout, result.stderr
    assert [list(d.float_data) for d in records(tmp_path / "kept_db").values()] == [[6, 7], [10, 11]]


def test_old_files_in_todays_form(tmp_path: Path) -> None:
    (tmp_path / "v1.prototxt").write_text('name: "old" layers { name: "c" type: CONVOLUTION bottom: "data" top: "c" blobs_lr: 1 blobs_lr: 2 convolution_param { num_output: 2 kernel_size: 3 } } '
                                          'input: "data" input_dim: 1 input_dim: 3 input_dim: 8 input_dim: 8')
    assert run("upgrade_net_proto_text", "v1.prototxt", "new.prototxt", cwd=tmp_path).returncode == 0
    text = (tmp_path / "new.prototxt").read_text()
    assert 'type: "Convolution"' in text and 'type: "Input"' in text and "layers" not in text and "position" not in text
    assert [layer.type for layer in read_net(tmp_path / "new.prototxt").layer] == ["Input", "Convolution"]
    old = pb.NetParameter(name="w")
    old.layers.add(name="c", type=pb.V1LayerParameter.CONVOLUTION).blobs.add(num=1, channels=1, height=1, width=2, data=[1, 2])
    (tmp_path / "old.caffemodel").write_bytes(old.SerializeToString())
    assert run("upgrade_net_proto_binary", "old.caffemodel", "new.caffemodel", cwd=tmp_path).returncode == 0
    new = pb.NetParameter.FromString((tmp_path / "new.caffemodel").read_bytes())
    assert new.layer[0].type == "Convolution" and list(new.layer[0].blobs[0].data) == [1, 2] and not new.layers
    (tmp_path / "s.prototxt").write_text('net: "n" solver_type: ADAM base_lr: 1')
    assert run("upgrade_solver_proto_text", "s.prototxt", "t.prototxt", cwd=tmp_path).returncode == 0
    assert read_solver(tmp_path / "t.prototxt").type == "Adam" and "solver_type" not in (tmp_path / "t.prototxt").read_text()


LOG = """I0101 00:00:01.000000   17 solver.cpp:60] Solving small
I0101 00:00:01.500000   17 solver.cpp:330] Iteration 0, Testing net (#0)
I0101 00:00:02.000000   17 solver.cpp:397]     Test net output #0: accuracy = 0.1
I0101 00:00:02.000000   17 solver.cpp:397]     Test net output #1: loss = 2.3 (* 1 = 2.3 loss)
I0101 00:00:02.500000   17 solver.cpp:218] Iteration 0 (0 iter/s, 1s/100 iters), loss = 2.4
I0101 00:00:02.500000   17 solver.cpp:237]     Train net output #0: loss = 2.4 (* 1 = 2.4 loss)
I0101 00:00:02.500000   17 sgd_solver.cpp:105] Iteration 0, lr = 0.01
I0101 00:00:04.500000   17 solver.cpp:218] Iteration 100 (50 iter/s, 2s/100 iters), loss = 0.5
I0101 00:00:04.500000   17 solver.cpp:237]     Train net output #0: loss = 0.5 (* 1 = 0.5 loss)
I0101 00:00:04.500000   17 sgd_solver.cpp:105] Iteration 100, lr = 0.005
I0101 00:00:05.500000   17 solver.cpp:330] Iteration 200, Testing net (#0)
I0101 00:00:06.000000   17 solver.cpp:397]     Test net output #0: accuracy = 0.9"""


def test_tables_of_a_log(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(LOG + "\nI0101 00:00:06.000000   17 solver.cpp:397]     Test net output #1: loss = 0.")
    result = run("parse_log", "a.log", ".", "--delimiter", ";", cwd=tmp_path)
    assert result.returncode == 0 and "a.log.train: 2 rows" in result.stdout
    with open(tmp_path / "a.log.train", newline="") as file:
        train = list(csv.DictReader(file, delimiter=";"))
    assert [(row["NumIters"], float(row["Seconds"]), float(row["LearningRate"]), float(row["loss"])) for row in train] == [("0", 1.5, 0.01, 2.4), ("100", 3.5, 0.005, 0.5)]
    _, test = parse(str(tmp_path / "a.log"))
    assert [row["accuracy"] for row in test] == [0.1, 0.9] and test[1]["loss"] == 0 and test[0]["LearningRate"] == 0.01
    (tmp_path / "cut.log").write_text(LOG[:LOG.index("accuracy = 0.9")])
    assert [row.get("accuracy") for row in parse(str(tmp_path / "cut.log"))[1]] == [0.1]
    (tmp_path / "none.log").write_text("nothing here\n")
    result = run("parse_log", "none.log", ".", cwd=tmp_path)
    assert result.returncode == 1 and "none.log: this log holds no net outputs" in result.stderr


def test_curves_of_several_trainings(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text(LOG + "\n")
    (tmp_path / "b_metrics.jsonl").write_text('{"iteration": 0, "loss": 2.5, "lr": 0.1, "seconds": 1.0}\n{"iteration": 0, "test": 0, "accuracy": 0.2, "loss": 2.0}\n'
                                              '{"iteration": 100, "loss": 0.7, "lr": 0.01, "seconds": 3.5}\n{"iteration": 100, "te')
    for number in ("0", "3", "4", "7"):
        result = run("plot_training_log", number, "c.svg", "a.log", "b_metrics.jsonl", cwd=tmp_path)
        assert result.returncode == 0 and "c.svg: 2 curves" in result.stdout and (tmp_path / "c.svg").read_bytes().startswith(b"<?xml"), result.stderr
    for arguments, message in ((("9", "c.svg", "a.log"), "a chart is 0 (test accuracy over iteration)"), (("0", "c.bmp", "a.log"), "a picture is png, svg, pdf"), (("0", "c.svg", "no.log"), "no.log")):
        result = run("plot_training_log", *arguments, cwd=tmp_path)
        assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr


def test_a_full_disk_is_an_error_and_leaves_nothing(pictures: Path, tmp_path: Path) -> None:
    """On a disk of 2 MB that only this process sees."""
    Path(tmp_path / "disk").mkdir()
    inside = f'mount -t tmpfs -o size=2m tmpfs disk && "{sys.executable}" -m brew.tools.cli convert_imageset --resize_width 900 --resize_height 900 images/ list.txt disk/db; echo "code $?"; ls -A disk'
    result = subprocess.run(["unshare", "-rm", "sh", "-c", inside], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if "permitted" in result.stderr or "denied" in result.stderr:
        pytest.skip(f"no disk of one's own: {result.stderr.strip()}")
    assert result.stdout.splitlines()[-1] == "code 1", result.stdout
    assert "disk/db: the database cannot be written after 0 records: the disk is full" in result.stderr


def test_device_query_tells_of_the_cpu(tmp_path: Path) -> None:
    result = run("device_query", cwd=tmp_path)
    assert result.returncode == 0 and "threads" in result.stdout and "oneDNN" in result.stdout


@pytest.mark.parametrize("gpu", ["abc", "0,x", "0,,1", "-1", "\u00b2", ","])
def test_device_query_takes_numbers_of_gpus(gpu: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["device_query", f"-gpu={gpu}"]) == 1
    assert capsys.readouterr().err == f"brew: -gpu takes all, or the numbers of GPUs with commas between, found {gpu!r}\n"


@pytest.mark.parametrize("gpu", ["abc", "0,1", "-1", "\u00b2"])
def test_a_command_runs_on_one_gpu(gpu: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["time", f"-gpu={gpu}", "-model", "net.prototxt"]) == 1
    assert capsys.readouterr().err == f"brew: -gpu takes the number of one GPU, found {gpu!r}\n"
