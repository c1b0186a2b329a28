"""Each tool on published pictures, nets and weights; what it writes is read by another tool. Skipped without ../shared."""
from __future__ import annotations

import csv
import gzip
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

import brew
from brew.engine.context import dry_run
from brew.layers.database import open_database
from brew.proto import parse, pb, read_binary, read_net, read_weights, shape_of, to_array
from brew.tools.cli import main
from brew.tools.database import datum_to_array
from brew.tools.metrics import read_metrics
from brew.tools.onnx_graph import build

pytestmark = pytest.mark.oracle
COUNT = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place with sixty pictures of ImageNet in a database, 227 x 227, and the published SqueezeNet."""
    shared = Path(__file__).resolve().parents[3] / "shared"
    if not shared.is_dir():
        pytest.skip(f"no data sets at {shared}")
    folder = tmp_path_factory.mktemp("real")
    samples, model = shared / "data/imagenet-samples", shared / "data/caffemodels/squeezenet-deepcompression"
    (folder / "list.txt").write_text("\n".join((samples / "labels.txt").read_text().splitlines()[:COUNT]) + "\n")
    (folder / "images").symlink_to(samples / "images")
    (folder / "w.caffemodel").write_bytes(gzip.decompress((model / "SqueezeNet_decoded.caffemodel.gz").read_bytes()))
    (folder / "deploy.prototxt").write_text((model / "SqueezeNet_deploy.prototxt").read_text())
    assert main(["convert_imageset", "--resize_width", "227", "--resize_height", "227", f"{folder}/images/", str(folder / "list.txt"), str(folder / "db")]) == 0
    return folder


def records(folder: str | Path) -> np.ndarray:
    """The arrays of all records of a database, (N, C, H, W)."""
    return np.stack([datum_to_array(pb.Datum.FromString(value)) for value in open_database(str(folder)).read(np.arange(COUNT), True)[1]])


def labels(folder: Path) -> list[tuple[str, int]]:
    return [(name, int(label)) for name, label in (line.split() for line in (folder / "list.txt").read_text().splitlines())]


def test_a_data_layer_reads_what_convert_imageset_wrote(folder: Path) -> None:
    net = brew.Net(parse(f'layer {{ name: "d" type: "Data" top: "x" top: "y" data_param {{ source: "{folder / "db"}" batch_size: {COUNT} }} }}', pb.NetParameter()), brew.TEST)
    net.forward()
    assert net.blobs["y"].data.astype(int).tolist() == [label for _, label in labels(folder)]
    for k in (0, COUNT - 1):
        image = cv2.resize(cv2.imread(str(folder / "images" / labels(folder)[k][0])), (227, 227))
        np.testing.assert_array_equal(net.blobs["x"].data[k], image.transpose(2, 0, 1))


def test_the_mean_is_that_of_the_records_and_a_data_layer_subtracts_it(folder: Path) -> None:
    assert main(["compute_image_mean", str(folder / "db"), "mean.binaryproto"]) == 0
    mean = to_array(read_binary("mean.binaryproto", pb.BlobProto(), "mean file")).reshape(3, 227, 227)
    np.testing.assert_allclose(mean, records(folder / "db").astype(np.float64).mean(0), rtol=1e-5)
    net = brew.Net(parse(f'layer {{ name: "d" type: "Data" top: "x" transform_param {{ mean_file: "mean.binaryproto" }} data_param {{ source: "{folder / "db"}" batch_size: {COUNT} }} }}', pb.NetParameter()), brew.TEST)
    net.forward()
    assert abs(net.blobs["x"].data.astype(np.float64).mean()) < 1e-3


def test_features_classes_and_onnx_agree(folder: Path) -> None:
    """extract_features from the database, classify from the files, and the exported net: one answer three times."""
    text = (folder / "deploy.prototxt").read_text()
    body = text[text.index("layer"):]
    Path("features.prototxt").write_text(f'layer {{ name: "d" type: "Data" top: "data" top: "label" transform_param {{ mean_value: 104 mean_value: 117 mean_value: 123 }} '
                                         f'data_param {{ source: "{folder / "db"}" batch_size: 20 }} }}\n{body}')
    assert main(["extract_features", str(folder / "w.caffemodel"), "features.prototxt", "pool_final", "features", "3", "lmdb"]) == 0
    features = records("features").reshape(COUNT, -1)
    truth = np.array([label for _, label in labels(folder)])
    assert (features.argmax(1) == truth).mean() > 0.5

    np.save("mean.npy", np.array([104.0, 117.0, 123.0]))
    names = [name for name, _ in labels(folder)][:10]
    images = np.stack([cv2.resize(cv2.imread(str(folder / "images" / name)), (227, 227))[..., ::-1] / np.float32(255) for name in names])
    np.save("images.npy", images)
    assert main(["classify", "images.npy", "scores.npy", "--model_def", str(folder / "deploy.prototxt"), "--pretrained_model", str(folder / "w.caffemodel"), "--mean_file", "mean.npy",
                 "--images_dim", "227,227", "--center_only"]) == 0
    scores = np.load("scores.npy").reshape(10, -1)
    np.testing.assert_allclose(scores, features[:10], rtol=1e-3, atol=1e-3)

    onnxruntime = pytest.importorskip("onnxruntime")
    assert main(["export", "-model", str(folder / "deploy.prototxt"), "-weights", str(folder / "w.caffemodel"), "-output", "net.onnx", "-any_batch"]) == 0
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    x = (images[..., ::-1] * np.float32(255) - np.array([104, 117, 123], np.float32)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(session.run(None, {"data": np.ascontiguousarray(x)})[0].reshape(10, -1), scores, rtol=1e-3, atol=1e-3)


def test_public_nets_in_onnx_runtime(shared: Path) -> None:
    """Deploy nets of public repositories, every fifth that is small: the same outputs within 1e-4."""
    onnxruntime = pytest.importorskip("onnxruntime")
    compared, seen = 0, set()
    for path in sorted((shared / "data/prototxts").rglob("*.prototxt"))[::5]:
        try:
            param = read_net(path)
            with dry_run():
                shapes = brew.Net(param, brew.TEST)
        except (brew.BrewError, ImportError):
            continue
        size = sum(b.count for blobs in shapes.params.values() for b in blobs)
        key = (size, len(shapes.layers))
        if shapes.unknown or not param.layer or param.layer[0].type != "Input" or "rois" in shapes.inputs or key in seen or size > 8e6 or sum(b.count for b in shapes.blobs.values()) > 5e7:
            continue
        seen.add(key)
        net, rng = brew.Net(param, brew.TEST), np.random.default_rng(0)
        for layer in net.layers:
            for k, blob in enumerate(layer.blobs):
                blob.data[...] = 1 if layer.type == "BatchNorm" and k == 2 else rng.uniform(0.5, 1.5, blob.shape) if len(blob.shape) == 1 else rng.standard_normal(blob.shape) / np.sqrt(blob.count / blob.shape[0])
        for name in net.inputs:
            net.blobs[name].data[...] = rng.standard_normal(net.blobs[name].shape)
        try:
            model, _ = build(net)
        except brew.BrewError as e:
            assert "ONNX" in str(e), path
            continue
        given = {i.name: net.blobs[i.name].data.copy() for i in model.graph.input if i.name in net.blobs}
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        net.forward()
        names = [o.name for o in session.get_outputs() if o.name in net.blobs]
        for name, found in zip(names, session.run(names, given)):
            expected = net.blobs[name].data
            assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max() + 1e-6, (path, name)
        compared += 1
    assert compared >= 10, compared


def test_windows_of_pictures(folder: Path) -> None:
    with open("windows.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "ymin", "xmin", "ymax", "xmax"])
        for name, _ in labels(folder)[:2]:
            h, w = cv2.imread(str(folder / "images" / name)).shape[:2]
            writer.writerows([[folder / "images" / name, 0, 0, h, w], [folder / "images" / name, h // 4, w // 4, h // 2, w // 2]])
    common = ["--model_def", str(folder / "deploy.prototxt"), "--pretrained_model", str(folder / "w.caffemodel")]
    for output in ("found.h5", "found.csv"):
        assert main(["detect", "windows.csv", output, *common]) == 0
    with h5py.File("found.h5") as file, open("found.csv", newline="") as table:
        rows = list(csv.DictReader(table))
        assert file["prediction"].shape[:2] == (4, 1000) and len(rows) == 4
        assert [float(row["ymax"]) for row in rows] == file["window"][:, 2].tolist()


def test_old_nets_and_weights_are_upgraded(shared: Path) -> None:
    model = shared / "data/caffemodels/lenet-mnist"
    assert main(["upgrade_net_proto_text", str(model / "lenet.prototxt"), "new.prototxt"]) == 0
    assert main(["upgrade_net_proto_binary", str(model / "lenet_iter_10000.caffemodel"), "new.caffemodel"]) == 0
    nets = [brew.Net(net, brew.TEST, weights=weights) for net, weights in ((model / "lenet.prototxt", model / "lenet_iter_10000.caffemodel"), ("new.prototxt", "new.caffemodel"))]
    assert list(nets[0].params) == list(nets[1].params)
    assert all((a.data == b.data).all() for layer in nets[0].params for a, b in zip(nets[0].params[layer], nets[1].params[layer]))
    assert not read_binary("new.caffemodel", pb.NetParameter(), "caffemodel").layers


def test_a_published_lenet_slides_and_is_pruned(shared: Path) -> None:
    model = shared / "data/caffemodels/lenet-mnist"
    common = ["-model", str(model / "lenet.prototxt"), "-weights", str(model / "lenet_iter_10000.caffemodel")]
    assert main(["surgery", "cast", "ip1=ip1-conv", "ip2=ip2-conv", *common, "-out_model", "conv.prototxt", "-out_weights", "conv.caffemodel"]) == 0
    data = gzip.decompress((shared / "data/mnist/t10k-images-idx3-ubyte.gz").read_bytes())
    digits = np.frombuffer(data, np.uint8, offset=16).reshape(-1, 28, 28)[:8].astype(np.float32) / 256
    one, sliding = brew.Net(common[1], brew.TEST, weights=common[3]), brew.Net("conv.prototxt", brew.TEST, weights="conv.caffemodel")
    one.blobs["data"].reshape(8, 1, 28, 28)
    sliding.blobs["data"].reshape(1, 1, 28, 28 * 8)
    expected = one.forward(data=digits[:, None])["prob"]
    page = sliding.forward(data=np.concatenate(list(digits), 1)[None, None])["prob"]
    assert page.shape == (1, 10, 1, 50)
    np.testing.assert_allclose(page[0, :, 0, ::7].T, expected, atol=1e-5)        # a digit every 28 pixels, a window every 4
    assert main(["surgery", "prune", "conv2=0.2", "ip1=0.5", *common, "-out_model", "small.prototxt", "-out_weights", "small.caffemodel"]) == 0
    small = brew.Net("small.prototxt", brew.TEST, weights="small.caffemodel")
    small.blobs["data"].reshape(8, 1, 28, 28)
    assert (small.forward(data=digits[:, None])["prob"].argmax(1) == expected.argmax(1)).sum() >= 7


def test_pictures_of_published_nets_filters_and_activations(folder: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nets = sorted((shared / "data/prototxts").rglob("*.prototxt"))[::60]
    drawn = 0
    for net in nets:
        if main(["draw_net", str(net), "net.svg"]) == 0:
            assert ElementTree.parse("net.svg").getroot().tag.endswith("svg")
            drawn += 1
    assert drawn >= 8
    capsys.readouterr()
    assert main(["filters", str(folder / "w.caffemodel"), "conv1", "filters.png", "--count", "96"]) == 0
    weights = next(layer for layer in read_weights(folder / "w.caffemodel").layer if layer.name == "conv1").blobs[0]
    assert f"96 of {shape_of(weights)[0]} filters of 3 x 7 x 7" in capsys.readouterr().out and cv2.imread("filters.png").shape == (10 * 36 + 1, 10 * 36 + 1, 3)
    name, label = labels(folder)[0]
    assert main(["activations", str(folder / "images" / name), "pool_final", "classes.png", "--model_def", str(folder / "deploy.prototxt"), "--pretrained_model", str(folder / "w.caffemodel")]) == 0
    assert len(re.findall(r"^channel +\d+  at most", capsys.readouterr().out, re.M)) == 5 and cv2.imread("classes.png") is not None


def test_a_log_of_a_real_training_and_its_curves(folder: Path) -> None:
    Path("net.prototxt").write_text(f'layer {{ name: "d" type: "Data" top: "x" top: "y" transform_param {{ scale: 0.004 crop_size: 64 }} data_param {{ source: "{folder / "db"}" batch_size: 10 }} }}\n'
                                    'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 8 kernel_size: 5 stride: 4 weight_filler { type: "xavier" } } }\n'
                                    'layer { name: "ip" type: "InnerProduct" bottom: "c" top: "ip" inner_product_param { num_output: 1000 weight_filler { type: "xavier" } } }\n'
                                    'layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "y" top: "accuracy" include { phase: TEST } }\n'
                                    'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "y" top: "loss" }')
    Path("solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.01 lr_policy: "inv" gamma: 0.1 power: 0.5 display: 5 max_iter: 20 test_iter: 2 test_interval: 10 snapshot_prefix: "run" random_seed: 1 '
                                       'solver_mode: CPU')
    with open("run.log", "w") as log:
        subprocess.run([sys.executable, "-m", "brew.tools.cli", "train", "-solver", "solver.prototxt"], stderr=log, stdout=subprocess.DEVNULL, check=True)
    assert main(["parse_log", "run.log", "."]) == 0
    with open("run.log.train", newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = [r for r in read_metrics("run_metrics.jsonl") if "lr" in r]
    assert [(int(r["NumIters"].split(".")[0]), pytest.approx(float(r["loss"]), rel=1e-4), pytest.approx(float(r["LearningRate"]), rel=1e-4)) for r in rows[:4]] == [(m["iteration"], m["loss"], m["lr"]) for m in metrics]
    for picture in ("loss.png", "loss.html"):
        assert main(["plot_training_log", "6", picture, "run.log", "run_metrics.jsonl"]) == 0
    assert cv2.imread("loss.png") is not None
