"""docs/layers is what the docstrings and the schema say, and the examples in it run."""
from __future__ import annotations

import sys
from pathlib import Path

import h5py
import lmdb
import numpy as np
import pytest

import brew
from brew.proto import from_array, parse, pb
from brew.tools.convert_xc import Rows, write_rows
from brew.tools.database import write_database
from brew.tools.layer_docs import example, own_names, pages

DOCS = Path(__file__).resolve().parents[2] / "docs" / "layers"

# The shapes of the example's bottoms; (2, 4, 6, 6) where none are given.
IMAGES, ROIS, ONE = (2, 4, 6, 6), (3, 5), ()
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "Accuracy": [(4, 5), (4,)], "Axpy": [(2, 4), IMAGES, IMAGES], "BatchReindex": [(4, 3), (2,)], "BoxAnnotatorOHEM": [ROIS, (3,), (3,), (3, 4)],
    "CTCGreedyDecoder": [(5, 2, 3)], "CTCLoss": [(5, 2, 3), (2, 2)], "ContrastiveLoss": [(2, 3), (2, 3), (2,)], "Crop": [(2, 4, 9, 9), (2, 4, 3, 3)], "Deconvolution": [(1, 21, 4, 4)],
    "DetectionEvaluate": [(1, 1, 3, 7), (1, 1, 2, 8)], "DetectionOutput": [(2, 12), (2, 63), (1, 2, 12)], "EuclideanLoss": [(2, 3), (2, 3)],
    "Filter": [(4, 3), (4,), (4,)], "HingeLoss": [(2, 5), (2,)], "InfogainLoss": [(2, 3), (2,)], "LSTM": [(5, 2, 3), (5, 2)], "RNN": [(5, 2, 3), (5, 2)],
    "LSHInnerProduct": [(2, 16), (2, 3)], "LSTMUnit": [(1, 2, 3), (1, 2, 12), (1, 2)], "MultiBoxLoss": [(2, 12), (2, 63), (1, 2, 12), (1, 1, 2, 8)], "MultinomialLogisticLoss": [(2, 5), (2,)],
    "PSROIPooling": [(1, 21 * 49, 4, 4), ROIS], "PriorBox": [IMAGES, (2, 3, 60, 60)], "ROIAlign": [IMAGES, ROIS], "ROIPooling": [IMAGES, ROIS],
    "SegAccuracy": [IMAGES, (2, 1, 6, 6)], "SmoothL1Loss": [(2, 8)] * 4, "SmoothL1LossOHEM": [(2, 8)] * 3, "SoftmaxWithLoss": [(2, 5), (2,)], "SigmoidCrossEntropyLoss": [(2, 5)] * 2,
    "PrecisionAtK": [(4, 5), (4, 5), (4, 2)], "SampledSoftmaxWithLoss": [(4, 5), (4, 5), (4, 2)],
    "SampledSigmoidCrossEntropyLoss": [(4, 5), (4, 5), (4, 2)],
    "SeparableConvolution": [(1, 8, 6, 6)], "HDF5Output": [(2, 3), (2,)], "Convolution": [(1, 1, 12, 12)], "Embed": [(3, 2)], "Reshape": [(2, 6)], "Upsample": [IMAGES, IMAGES],
}


# Of bottoms that hold boxes: true ones, and priors with their variances. Others are 0.25, or 0 where they may be labels.
VALUES = {(1, 1, 2, 8): [0, 1, 0, 0, 0, 1, 1, 0], (1, 2, 12): [[[0, 0, 0.5, 0.5] * 3, [0.1] * 12]]}
DOUBLER = """
import brew
class Doubler(brew.Layer):
    def setup(self, bottom, top):
        pass
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top):
        top[0].data[...] = 2 * bottom[0].data
    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 2 * top[0].diff
"""


def files_for_readers() -> None:
    """What the examples of layers that read data name, small and in the working directory."""
    import cv2
    datums = [(f"{i}".encode(), pb.Datum(channels=1, height=28, width=28, data=bytes(784), label=i % 10)) for i in range(4)]
    write_database(Path("mnist_train_lmdb"), datums)
    boxed = pb.AnnotatedDatum(datum=pb.Datum(encoded=True, data=cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1].tobytes()))
    with lmdb.open("trainval_lmdb", map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"0", boxed.SerializeToString())
    Path("images").mkdir()
    cv2.imwrite("images/a.png", np.zeros((300, 300, 3), np.uint8))
    with h5py.File("train.h5", "w") as file:
        file["data"], file["label"] = np.zeros((4, 3), np.float32), np.zeros(4, np.float32)
    Path("infogain.binaryproto").write_bytes(from_array(np.eye(3, dtype=np.float32)).SerializeToString())
    Path("windows.txt").write_text("# 0\nimages/a.png\n3\n300\n300\n2\n1 0.9 10 10 200 200\n0 0.1 5 5 100 100\n")
    ints = (np.array(a, np.int32) for a in ([2, 0], [1, 2], [0, 1], [3, 2, 7]))       # labels and features of two rows
    write_rows("bibtex_train_lmdb", [Rows(*ints, np.ones(3, np.float32))], lambda: (8, 2))
    Path("my_layers.py").write_text(DOUBLER)


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == pages()[name], "run python -m brew.tools.layer_docs docs/layers"


def test_there_are_no_pages_too_many() -> None:
    assert {p.name for p in DOCS.glob("*.md")} == set(pages())


@pytest.mark.parametrize("name", sorted(own_names().values()))
def test_the_example_runs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    layers = parse(example(name), pb.NetParameter())
    assert [layer.type for layer in layers.layer] == [name]
    files_for_readers()
    Path("train.txt").write_text("images/a.png 0\n" if name == "ImageData" else "train.h5\n")
    if name == "ImageData":
        layers.layer[0].image_data_param.root_folder = ""
    monkeypatch.delitem(sys.modules, "my_layers", raising=False)       # another test's
    monkeypatch.syspath_prepend(str(tmp_path))
    layer = layers.layer[0]
    net = pb.NetParameter(force_backward=name not in ("DetectionOutput", "DetectionEvaluate"))
    bottoms = list(dict.fromkeys(layer.bottom))
    for bottom, shape in zip(bottoms, SHAPES.get(name, [(2, 4, 6, 6)] * len(bottoms))):
        net.layer.add(name=f"in {bottom}", type="Input", top=[bottom]).input_param.shape.add(dim=shape)
    net.layer.append(layer)
    phase = brew.TEST if any(rule.phase == brew.TEST for rule in layer.include) else brew.TRAIN
    built = brew.Net(net, phase, seed=1)
    for bottom in bottoms:
        blob = built.blobs[bottom]
        blob.data[...] = VALUES.get(blob.shape, 0.25 if len(blob.shape) > 2 else 0)
    if name == "MemoryData":
        built.layers[-1].set_input_arrays(np.zeros((8, 1, 28, 28), np.float32), np.zeros(8, np.float32))
    outputs = built.forward()
    assert all(np.isfinite(values).all() for values in outputs.values()) and (outputs or not layer.top)
    if net.force_backward:
        built.backward()
