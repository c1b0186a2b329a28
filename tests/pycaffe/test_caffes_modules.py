"""Scripts of Caffe's users, run as `import caffe`: NetSpec, coordinates, io, pictures, Classifier and Detector."""
from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import brew

brew.install_as_caffe()

import caffe  # type: ignore[import-not-found]  # noqa: E402
import caffe.io  # type: ignore[import-not-found]  # noqa: E402
from caffe import layers as L  # noqa: E402
from caffe import params as P  # noqa: E402
from caffe.coord_map import coord_map_from_to, crop  # type: ignore[import-not-found]  # noqa: E402
from caffe.proto import caffe_pb2  # type: ignore[import-not-found]  # noqa: E402


def write(folder: Path, text: str) -> str:
    path = folder / "other.prototxt"
    path.write_text(text)
    return str(path)


# -------------------------------------------------------------------------------------------------------------------- NetSpec


def lenet(n: Any) -> Any:
    n.data, n.label = L.DummyData(shape=[dict(dim=[2, 1, 28, 28]), dict(dim=[2, 1, 1, 1])], transform_param=dict(scale=1 / 255), ntop=2)
    n.conv1 = L.Convolution(n.data, kernel_size=5, num_output=20, weight_filler=dict(type="xavier"))
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=50, weight_filler=dict(type="xavier"), param=[dict(lr_mult=1), dict(lr_mult=2)])
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.ip2 = L.InnerProduct(n.relu1, num_output=10, weight_filler=dict(type="xavier"))
    n.loss = L.SoftmaxWithLoss(n.ip2, n.label)
    return n.to_proto()


def test_nets_written_in_python(tmp_path: Path) -> None:
    proto = lenet(caffe.NetSpec())
    assert [layer.name for layer in proto.layer] == ["data", "conv1", "pool1", "ip1", "relu1", "ip2", "loss"]
    assert proto.layer[4].bottom == proto.layer[4].top == ["ip1"] and proto.layer[0].top == ["data", "label"] and proto.layer[3].param[1].lr_mult == 2
    assert proto.layer[0].transform_param.scale == pytest.approx(1 / 255) and proto.layer[1].convolution_param.kernel_size == [5]
    assert len(caffe.Net(write(tmp_path, str(proto)), caffe.TEST).layers) == 7
    data, label = L.DummyData(shape=[dict(dim=[2, 1, 28, 28]), dict(dim=[2, 1, 1, 1])], ntop=2)
    loss = L.SoftmaxWithLoss(L.ReLU(L.InnerProduct(data, num_output=10), in_place=True), label)
    for anonymous in (caffe.to_proto(loss), loss.to_proto()):
        assert [layer.name for layer in anonymous.layer] == ["DummyData1", "InnerProduct1", "ReLU1", "SoftmaxWithLoss1"]
        assert anonymous.layer[3].bottom == ["InnerProduct1", "DummyData2"]


def test_netspecs_corners(tmp_path: Path) -> None:
    n = caffe.NetSpec()
    n.data, n["data2"] = L.DummyData(shape=dict(dim=3), ntop=2)
    n.silence_data = L.Silence(n.data, ntop=0)
    n.silence_data2 = L.Silence(n.data2, ntop=0)
    net = caffe.Net(write(tmp_path, str(n.to_proto())), caffe.TEST)
    assert len(net.forward()) == 0 and list(net._layer_names)[-1] == "silence_data2"
    pair = L.DummyData(ntop=2)
    with pytest.raises(TypeError, match=r"^Silence input 0 is not a Top \(type is <class 'tuple'>\)$"):
        L.Silence(pair, ntop=0)
    with pytest.raises(AttributeError, match=r"(?s)kernelsize.*kernel_size"):
        caffe.to_proto(L.Convolution(pair[0], kernelsize=3))
    with pytest.raises(AttributeError, match="Poolin"):
        P.Poolin  # noqa: B018


# ---------------------------------------------------------------------------------------------------------------- coordinates


def coord_net(kernel: Any = 3, stride: Any = 1, pad: Any = 0, pool: int = 2, up: Any = 2, up_pad: int = 0) -> Any:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[2, 1, 100, 100]))
    n.aux = L.Input(shape=dict(dim=[2, 1, 20, 20]))
    n.conv = L.Convolution(n.data, num_output=10, kernel_size=kernel, stride=stride, pad=pad)
    n.pool = L.Pooling(n.conv, pool=P.Pooling.MAX, kernel_size=pool, stride=pool, pad=0)
    n.deconv = L.Deconvolution(n.pool, num_output=10, kernel_size=2 * up, stride=up, pad=up_pad)
    return n


def test_coordinate_maps() -> None:
    n = coord_net()
    assert coord_map_from_to(n.deconv, n.data) == (1, 1, 0)
    n = coord_net(pool=4, up=4)
    assert coord_map_from_to(n.deconv, n.data) == (1, 1, -1)
    for pad in (1, 7):
        nets = coord_net(pad=pad), coord_net(up_pad=pad), coord_net(pad=pad, up_pad=pad)
        assert [coord_map_from_to(n.deconv, n.data)[2] for n in nets] == [-pad, pad, 0]
    n = coord_net()
    n.relu = L.ReLU(n.deconv, in_place=True)
    n.cropped = L.Crop(n.relu, n.data, axis=2, offset=5)
    assert coord_map_from_to(n.cropped, n.data) == (1, 1, 5)
    n = coord_net(kernel=[3, 5], stride=[1, 2], pad=[0, 10])
    axis, a, b = coord_map_from_to(n.conv, n.data)
    assert axis == 1 and np.allclose(a, [1, 2]) and np.allclose(b, [1, -8])


def test_crops_and_what_has_no_map() -> None:
    n = coord_net(pool=4, up=4)
    n.score = crop(n.deconv, n.data)
    assert n.to_proto().layer[-1].crop_param.offset == [1] and n.to_proto().layer[-1].crop_param.axis == 2
    n.ip = L.InnerProduct(n.deconv, num_output=10)
    for top, reference in ((n.ip, n.data), (n.deconv, n.aux)):
        with pytest.raises(RuntimeError, match="no map"):
            coord_map_from_to(top, reference)
    for n, why in ((coord_net(pool=3, up=2), "scale"), (coord_net(kernel=2), "whole"), (coord_net(up_pad=10), "pad")):
        with pytest.raises(AssertionError, match=why):
            crop(n.deconv, n.data)
    n.side = L.Convolution(n.data, num_output=1, kernel_size=3, axis=2)
    with pytest.raises(caffe.coord_map.AxisMismatchException):
        coord_map_from_to(n.conv, n.side)


# ------------------------------------------------------------------------------------------------------------------------- io


def test_blobs_and_records() -> None:
    data = np.arange(100.0).reshape(10, 10)
    old, new, bare = (caffe_pb2.BlobProto(data=data.ravel()) for _ in range(3))
    old.num, old.channels, old.height, old.width = 1, 1, 10, 10
    new.shape.dim.extend(data.shape)
    assert caffe.io.blobproto_to_array(old).shape == (1, 1, 10, 10) and (caffe.io.blobproto_to_array(new) == data).all()
    with pytest.raises(ValueError, match=r"a blob of shape \(\) has 100 values"):
        caffe.io.blobproto_to_array(bare)
    assert caffe.io.blobproto_to_array(caffe_pb2.BlobProto(data=[123])) == 123
    assert (caffe.io.blobproto_to_array(caffe.io.array_to_blobproto(data, diff=2 * data), return_diff=True) == 2 * data).all()
    assert [a.shape for a in caffe.io.blobprotovector_str_to_arraylist(caffe.io.arraylist_to_blobprotovector_str([data, data[0]]))] == [(10, 10), (10,)]
    for array in (np.arange(24, dtype=np.uint8).reshape(2, 3, 4), np.linspace(-1, 1, 24).reshape(2, 3, 4)):
        with_label, without = caffe.io.array_to_datum(array, 1), caffe.io.array_to_datum(array)
        np.testing.assert_allclose(caffe.io.datum_to_array(with_label), array, rtol=1e-6)
        assert len(with_label.SerializeToString()) > len(without.SerializeToString())


def test_images(tmp_path: Path) -> None:
    bgr = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "an image.png"), bgr)
    image = caffe.io.load_image(str(tmp_path / "an image.png"))
    assert image.dtype == np.float32 and np.allclose(image, bgr[:, :, ::-1] / 255) and caffe.io.load_image(tmp_path / "an image.png", color=False).shape == (20, 30, 1)
    (tmp_path / "none.png").write_text("no picture")
    for file in ("none.png", "missing.png"):
        with pytest.raises(RuntimeError, match=file):
            caffe.io.load_image(tmp_path / file)
    assert caffe.io.resize_image(image, (10, 15)).shape == (10, 15, 3) and caffe.io.resize_image(np.zeros((5, 5, 600)), (7, 9)).shape == (7, 9, 600)
    crops = caffe.io.oversample([image], (12, 14))
    assert crops.shape == (10, 12, 14, 3) and (crops[0] == image[:12, :14]).all() and (crops[4] == image[4:16, 8:22]).all() and (crops[8] == crops[3][:, ::-1]).all()


def test_transformer_there_and_back() -> None:
    t = caffe.io.Transformer({"data": (1, 3, 20, 30)})
    t.set_transpose("data", (2, 0, 1))
    t.set_channel_swap("data", (2, 1, 0))
    t.set_raw_scale("data", 255)
    t.set_mean("data", np.array([104, 117, 123]))
    t.set_input_scale("data", 0.5)
    image = np.random.default_rng(0).random((20, 30, 3)).astype(np.float32)
    values = t.preprocess("data", image)
    np.testing.assert_allclose(values, (image.transpose(2, 0, 1)[::-1] * 255 - np.array([104, 117, 123])[:, None, None]) * 0.5, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(t.deprocess("data", values), image, atol=1e-5)
    assert t.preprocess("data", np.zeros((40, 60, 3))).shape == (3, 20, 30)
    t.set_mean("data", np.ones((3, 10, 10)))
    assert t.mean["data"].shape == (3, 20, 30)
    with pytest.raises(RuntimeError, match="none of the inputs"):
        t.preprocess("dato", image)
    with pytest.raises(ValueError, match="4 channels"):
        t.set_mean("data", np.zeros(4))


# ------------------------------------------------------------------------------------------------- classifier, detector, pictures


def deployed(folder: Path) -> tuple[str, str]:
    """A net that tells how much of each colour there is, as files."""
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[4, 3, 8, 8]))
    n.mean = L.Pooling(n.data, pool=P.Pooling.AVE, global_pooling=True)
    n.ip = L.InnerProduct(n.mean, num_output=3)
    n.prob = L.Softmax(n.ip)
    file = write(folder, str(n.to_proto()))
    net = caffe.Net(file, caffe.TEST)
    net.params["ip"][0].data[...] = 10 * np.eye(3)
    net.save(str(folder / "w.caffemodel"))
    return file, str(folder / "w.caffemodel")


def test_classifier(tmp_path: Path) -> None:
    classifier = caffe.Classifier(*deployed(tmp_path), image_dims=(12, 12), raw_scale=1, channel_swap=(2, 1, 0))
    images = [np.zeros((20, 16, 3), np.float32) for _ in range(5)]
    for i, image in enumerate(images):
        image[:, :, i % 3] = 1
    for oversample in (True, False):
        found = classifier.predict(images, oversample=oversample)
        assert found.shape == (5, 3) and found.argmax(1).tolist() == [2, 1, 0, 2, 1]          # swapped: blue comes first


@pytest.mark.parametrize("context", [None, 2])
def test_detector(context: int | None, tmp_path: Path) -> None:
    picture = np.zeros((40, 40, 3), np.uint8)
    picture[:20, :20], picture[20:, 20:] = (255, 0, 0), (0, 0, 255)                           # BGR: blue, red
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    detector = caffe.Detector(*deployed(tmp_path), mean=np.array([0.1, 0.1, 0.1]), context_pad=context)
    found = detector.detect_windows([(str(tmp_path / "p.png"), [(0, 0, 19, 19), (20, 20, 39, 39)])])
    assert [window["prediction"].argmax() for window in found] == [2, 0] and found[0]["filename"].endswith("p.png")
    assert detector.crop(np.ones((40, 40, 3), np.float32), (0, 0, 19, 19)).shape[:2] == ((20, 20) if context is None else (8, 8))


def test_pictures_of_nets() -> None:
    root = Path(__file__).resolve().parents[2] / "models"
    for name, direction, kind, start in (("lenet", "LR", "png", b"\x89PNG"), ("googlenet", "TB", "svg", b"<?xml"), ("resnet50", "TB", "pdf", b"%PDF")):
        net = caffe_pb2.NetParameter()
        from google.protobuf import text_format
        text_format.Merge((root / name / "deploy.prototxt").read_text(), net)
        picture = caffe.draw.draw_net(net, direction, kind, phase=caffe.TEST)
        assert picture.startswith(start)
        if kind == "svg":
            assert "inception_3a/3x3" in picture.decode() and "Pooling MAX 3x3 /2" in picture.decode()
    with pytest.raises(RuntimeError, match="svg, png, pdf"):
        caffe.draw.draw_net(net, "LR", "bmp")


def test_another_caffe_is_not_pushed_aside() -> None:
    import subprocess
    code = "import types, sys; sys.modules['caffe'] = types.ModuleType('caffe'); import brew; brew.install_as_caffe()"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert result.returncode == 1 and "another caffe is imported already" in result.stderr


# ------------------------------------------------------------------------------------------------------------- classify, detect


def brew_cli(*args: str, cwd: Path) -> Any:
    import subprocess
    return subprocess.run([sys.executable, "-m", "brew.tools.cli", *args], cwd=cwd, capture_output=True, text=True, timeout=300)


def test_classify_and_detect_from_the_command_line(tmp_path: Path) -> None:
    model = [f"--{name}={Path(file).name}" for name, file in zip(("model_def", "pretrained_model"), deployed(tmp_path))]
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(("a.png", "b.png", "c.png")):
        picture = np.zeros((20, 16, 3), np.uint8)
        picture[:, :, i] = 255                                     # blue, green, red
        cv2.imwrite(str(tmp_path / "photos" / name), picture)
    (tmp_path / "labels.txt").write_text("blue\ngreen\nred\n")
    result = brew_cli("classify", "photos", "p.npy", *model, "--raw_scale=1", "--images_dim=12,12", "--ext=png", "--labels=labels.txt", cwd=tmp_path)
    assert result.returncode == 0 and np.load(tmp_path / "p.npy").argmax(1).tolist() == [0, 1, 2] and "photos/b.png" in result.stdout, result.stderr
    assert [line.split('"')[1] for line in result.stdout.splitlines() if '"' in line][::3] == ["blue", "green", "red"]
    (tmp_path / "w.csv").write_text("filename,ymin,xmin,ymax,xmax\nphotos/a.png,0,0,9,9\nphotos/c.png,5,5,14,14\n")
    assert brew_cli("detect", "w.csv", "found.csv", *model, "--raw_scale=1", "--context_pad=0", cwd=tmp_path).returncode == 0
    rows = [line.split(",") for line in (tmp_path / "found.csv").read_text().splitlines()]
    assert rows[0] == ["filename", "class0", "class1", "class2", "ymin", "xmin", "ymax", "xmax"] and [np.argmax([float(v) for v in row[1:4]]) for row in rows[1:]] == [0, 2]
    assert brew_cli("detect", "w.csv", "found.h5", *model, "--context_pad=2", cwd=tmp_path).returncode == 0
    import h5py
    with h5py.File(tmp_path / "found.h5") as file:
        assert file["prediction"].shape == (2, 3) and file["window"][1].tolist() == [5, 5, 14, 14]
    (tmp_path / "bad.csv").write_text("filename,ymin,xmin,ymax,xmax\nphotos/a.png,0,0,9\n")
    for arguments, message in ((("classify", "photos", "p.npy", *model), "no files *.jpg"), (("classify", "missing.jpg", "p.npy", *model), "missing.jpg"),
                               (("classify", "photos", "p.npy", *model, "--images_dim=256"), "takes 2 numbers"), (("detect", "bad.csv", "o.csv", *model, "--context_pad=2"), "bad.csv:2: four numbers"),
                               (("detect", "w.csv", "o.txt", *model), "a .h5 or a .csv file")):
        result = brew_cli(*arguments, cwd=tmp_path)
        assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
