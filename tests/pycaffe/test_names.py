"""Every name of pycaffe with its signature, by inspection, and those that every_name.py does not call."""
from __future__ import annotations

import ast
import inspect
import io
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import h5py
import numpy as np
import pytest

import brew

brew.install_as_caffe()

import caffe  # type: ignore[import-not-found]  # noqa: E402
import caffe._caffe  # type: ignore[import-not-found]  # noqa: E402
from caffe import layers as L  # noqa: E402
from caffe import params as P  # noqa: E402

from brew.proto import pb  # noqa: E402

HERE = Path(__file__).parent
NAMES = [line.split("\t") for line in (HERE / "names.tsv").read_text().splitlines()[1:]]
NET = """
layer { name: "data" type: "MemoryData" top: "data" top: "label" memory_data_param { batch_size: 2 channels: 3 height: 4 width: 4 } }
layer { name: "twice" type: "Python" bottom: "data" top: "twice" python_param { module: "twice_layer" layer: "Twice" param_str: "two" } }
layer { name: "ip" type: "InnerProduct" bottom: "twice" top: "ip" inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 2 }
"""
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 display: 3 snapshot_prefix: "s"'


class Twice(caffe.Layer):  # type: ignore[misc]
    def setup(self, bottom: Any, top: Any) -> None:
        self.seen = self.param_str, self.param_str_, str(self.phase)
        self.blobs.add_blob(2, 3)

    def reshape(self, bottom: Any, top: Any) -> None:
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom: Any, top: Any) -> None:
        top[0].data[...] = 2 * bottom[0].data

    def backward(self, top: Any, propagate_down: Any, bottom: Any) -> None:
        bottom[0].diff[...] = 2 * top[0].diff

    def greet(self) -> str:
        return "mine"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """An object of each kind that names.tsv speaks of."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "twice_layer", SimpleNamespace(Twice=Twice))
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    solver = caffe.SGDSolver("solver.prototxt")
    solver.net.set_input_arrays(np.ones((4, 3, 4, 4), np.float32), np.zeros(4, np.float32))
    return {"caffe": caffe, "net": solver.net, "solver": solver, "blob": solver.net.blobs["ip"], "layer": solver.net.layers[2],
            "user": solver.net.layers[1], "timer": caffe.Timer()}


def parameters(signature: str) -> list[inspect.Parameter]:
    names: dict[str, Any] = {}
    exec(f"def caffes{signature}: ...", names)
    return list(inspect.signature(names["caffes"]).parameters.values())


def test_every_name_is_there_with_caffes_signature(made: dict[str, Any]) -> None:
    wrong = []
    for name, signature, _ in NAMES:
        first, *rest = name.split(".")
        found = made[first]
        try:
            for part in rest:
                found = getattr(found, part)
        except AttributeError as e:
            wrong.append(f"{name}: {e}")
            continue
        if not signature:
            continue
        own = list(inspect.signature(found).parameters.values())
        mine = {p.name: p for p in own}
        for i, p in enumerate(parameters(signature)):
            if p.kind is p.VAR_KEYWORD or p.kind is p.VAR_POSITIONAL:
                fits = any(q.kind is p.kind for q in own)
            elif p.kind is p.POSITIONAL_ONLY:
                fits = i < len(own) and own[i].kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
            else:
                fits = i < len(own) and own[i].name == p.name and (p.default is p.empty) <= (own[i].kind is not p.KEYWORD_ONLY)
            optional = p.default is p.empty or p.name not in mine or mine[p.name].default is not p.empty
            if not fits or not optional:
                wrong.append(f"{name}{signature}: brew has {inspect.signature(found)}")
        wrong += [f"{name}: brew needs {p.name}, too" for p in own[len(parameters(signature)):]
                  if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    assert not wrong


def test_every_name_has_its_test() -> None:
    every = (HERE / "every_name.py").read_text()
    for name, _, where in NAMES:
        file, function = where.split("::")
        text = (HERE / file).read_text()
        body = next(ast.get_source_segment(text, node) for node in ast.parse(text).body if isinstance(node, ast.FunctionDef) and node.name == function)
        used = every if file == "test_every_name.py" else f"{body}{NET}{inspect.getsource(Twice)}"
        last = name.split(".")[-1]
        assert re.search(rf"\b{last}\b", used) or function == "test_modules_know_each_other", (name, where)


def test_what_users_see_has_docstrings() -> None:
    kinds = [caffe.Net, brew.Net, brew.Blob, brew.Solver, caffe.SGDSolver, caffe.Classifier, caffe.Detector, caffe.io.Transformer]
    bare = {f"{kind.__name__}.{name}" for kind in kinds for name, member in inspect.getmembers(kind)
            if not name.startswith("_") and (callable(member) or isinstance(member, property)) and not inspect.getdoc(member)}
    assert not bare


# --------------------------------------------------------------------------------------------------------------- modules

def test_modules_know_each_other() -> None:
    """caffe, caffe.pycaffe and caffe._caffe have the same objects."""
    for name, _, where in NAMES:
        first, module, *rest = name.split(".")
        if first == "caffe" and module in ("_caffe", "pycaffe") and len(rest) == 1 and hasattr(caffe, rest[0]):
            assert getattr(getattr(caffe, module), rest[0]) is getattr(caffe, rest[0]), name
    assert caffe.io.caffe_pb2 is caffe.net_spec.caffe_pb2 is caffe.proto.caffe_pb2 and issubclass(caffe.SGDSolver, caffe._caffe.Solver)
    assert isinstance(brew.Net.__init__, type(caffe.Net.__init__)) and caffe._caffe.Blob is brew.Blob
    assert {brew.AdamWSolver, brew.LARSSolver} <= set(brew.SOLVERS.values()) and issubclass(brew.LARSSolver, brew.Solver)
    vectors = [getattr(caffe._caffe, f"{kind}Vec") for kind in ("Blob", "RawBlob", "Layer", "String", "Int", "Dtype", "Net", "Bool")]
    assert all(len(vector([1])) == 1 for vector in vectors)
    assert caffe.net_spec.param_name_dict()["Convolution"] == caffe.net_spec._param_names["Convolution"] == "convolution"
    top = caffe.net_spec.Top(caffe.net_spec.Function("ReLU", [], {}), 0)
    assert isinstance(L, caffe.net_spec.Layers) and isinstance(P, caffe.net_spec.Parameters) and top.n == 0
    datum = caffe.io.caffe_pb2.Datum()
    caffe.net_spec.assign_proto(datum, "label", 3)
    assert datum.label == 3


# ---------------------------------------------------------------------------------------------------------------- layers

def test_layers_are_the_users_objects(made: dict[str, Any]) -> None:
    net, solver = made["net"], made["solver"]
    for layer in (net.layers[1], net.layer_dict["twice"], solver.net.layers[1], dict(zip(net._layer_names, net.layers))["twice"]):
        assert isinstance(layer, Twice) and layer.greet() == "mine" and layer.type == "Python"
        assert layer.seen == ("two", "two", "0") and (layer.param_str, layer.phase) == (layer.param_str_, caffe.TRAIN)
        assert [b.shape for b in layer.blobs] == [(2, 3)]
    assert [layer.type for layer in net.layers] == ["MemoryData", "Python", "InnerProduct", "SoftmaxWithLoss"]
    inner = net.layers[2]
    assert isinstance(inner.blobs, caffe._caffe.BlobVec) and inner.blobs.add_blob(5).shape == (5,) and len(inner.blobs) == 3


OURS = ("engine", "solvers", "layers", "tools", "pycaffe")
NOT_THE_VIEW = {("shape_watch.py", "self.layers"), ("coord_map.py", "net_spec.layers")}          # a list of the engine's own, and L


@pytest.mark.parametrize("folder", OURS)
def test_brew_itself_reads_the_engines_layers(folder: str) -> None:
    """`layers` of a net is the users' view; what computes with it would meet their objects. Only the view itself may read it."""
    found = []
    for path in (HERE.parents[1] / folder).rglob("*.py"):
        tree = ast.parse(path.read_text())
        view = {id(node) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) and f.name == "layer_dict" for node in ast.walk(f)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and node.attr in ("layers", "layer_dict") and id(node) not in view:
                if (path.name, ast.unparse(node)) not in NOT_THE_VIEW:
                    found.append(f"{path.name}:{node.lineno}: {ast.unparse(node)}")
    assert not found


# ------------------------------------------------------------------------------------------------------------------- nets

def test_members_by_number(made: dict[str, Any]) -> None:
    net, solver, timer = made["net"], made["solver"], made["timer"]
    names = net._blob_names
    assert [names[i] for i in net._bottom_ids(3)] == ["ip", "label"] and [names[i] for i in net._top_ids(0)] == ["data", "label"]
    assert net._blob_loss_weights == [0, 0, 0, 0, 2] and net._inputs == [] and [names[i] for i in net._outputs] == ["loss"]
    loss = net._forward(0, 3)
    assert loss == pytest.approx(2 * float(net.blobs["loss"].data)) and net._forward(1, 1) == 0
    net._backward(3, 0)
    before = net.blobs["data"].diff.copy()
    assert before.any()
    net.blobs["data"].diff[...] = 0
    net._backward(1, 1)
    np.testing.assert_array_equal(net.blobs["data"].diff, before)
    parts = [part["data"].shape for part in net._batch({"data": np.zeros((5, 3, 4, 4), np.float32)})]
    assert parts == [(2, 3, 4, 4)] * 3
    net._set_input_arrays(np.full((2, 3, 4, 4), 7, np.float32), np.zeros(2, np.float32))
    net._forward(0, 0)
    assert (net.blobs["data"].data == 7).all()
    solver.param.base_lr *= 0.5
    assert solver.param.display == 3 and solver.lr == pytest.approx(0.05)
    timer.start()
    timer.stop()
    assert timer.us == 1e3 * timer.ms


def test_notebooks_show_a_net(made: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    net = made["net"]
    assert repr(net) == '<Net "", TRAIN: 4 layers, 104 parameters, data layers -> loss>'
    assert net._repr_svg_().startswith("<?xml") and ">ip<" in net._repr_svg_().replace(" ", "")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.path", None)
    monkeypatch.setattr("brew.tools.draw.draw", lambda *_: (_ for _ in ()).throw(brew.BrewError("no matplotlib")))
    assert net._repr_svg_() is None


@pytest.mark.parametrize("name", ["weights", "weights.caffemodel", "weights.h5", "weights.bin"])
@pytest.mark.parametrize("kind", ["save", "save_hdf5"])
@pytest.mark.parametrize("way", ["load_hdf5", "copy_from"])
def test_weights_are_known_by_their_content(made: dict[str, Any], name: str, kind: str, way: str) -> None:
    net = made["net"]
    wanted = net.params["ip"][0].data.copy()
    getattr(net, kind)(name)
    net.params["ip"][0].data[...] = 0
    getattr(net, way)(name)
    np.testing.assert_array_equal(net.params["ip"][0].data, wanted)
    assert h5py.is_hdf5(name) == (kind == "save_hdf5")


# ---------------------------------------------------------------------------------------------------------------- NetSpec

def test_a_netspec_changes_layers_that_it_has() -> None:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 8, 8]))
    n.conv = L.Convolution(n.data, num_output=2, kernel_size=3)
    n.update("conv", {"dilation": 2, "num_output": 4})
    assert n.keys() == ["data", "conv"] and n.vals() == [n.data, n.conv]
    n.relu = L.ReLU(n.conv, name="other")
    n.update("relu", dict(in_place=True))
    n.update({"more": L.TanH(n.relu)})
    made = n.to_proto().layer
    assert (made[1].convolution_param.num_output, made[1].convolution_param.dilation) == (4, [2])
    assert made[2].top == ["conv"] and made[3].top == ["more"] and made[3].bottom == ["conv"]
    with pytest.raises(AttributeError, match='no top "con"'):
        n.update("con", {})


def test_scripts_may_add_types_to_those_with_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(caffe.net_spec._param_names, "MyConvolution", "convolution")
    layer = L.MyConvolution(L.Input(shape=dict(dim=[1])), num_output=3).to_proto().layer[1]
    assert layer.convolution_param.num_output == 3


def test_of_several_names_a_top_takes_the_last() -> None:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3]))
    n.ip = L.InnerProduct(n.data, num_output=2)
    n.score = n.ip
    assert [layer.name for layer in n.to_proto().layer] == ["data", "score"] and n.to_proto().layer[1].top == ["score"]


@pytest.mark.parametrize("message", sorted(pb.DESCRIPTOR.message_types_by_name))
def test_params_has_every_message(message: str) -> None:
    if not message.endswith("Parameter"):
        return
    found = getattr(P, message.removesuffix("Parameter"))
    for enum in getattr(pb, message).DESCRIPTOR.enum_types:
        assert {value.name: getattr(found, value.name) for value in enum.values} == {value.name: value.number for value in enum.values}


def test_params_without_a_message_names_the_nearest() -> None:
    with pytest.raises(AttributeError, match=r'no parameters of the name "Poling"\n?.*Pooling'):
        P.Poling


@pytest.mark.parametrize("field, value", [("pad", 3 / 2), ("num_output", "many"), ("weight_filler", 3), ("bias_term", "yes"), ("engine", "FAST"),
                                          ("kernel_sise", 3), ("weight_filler", dict(tipe="xavier"))])
def test_a_wrong_value_names_layer_and_field(field: str, value: Any) -> None:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 8, 8]))
    n.conv1 = L.Convolution(n.data, **{"num_output": 2, "kernel_size": 3, field: value})
    with pytest.raises((TypeError, ValueError, AttributeError)) as e:
        n.to_proto()
    assert str(e.value).startswith(f'layer "conv1" of type Convolution: {field}: ')


def test_a_whole_number_may_come_from_a_division() -> None:
    n = caffe.NetSpec()
    n.data = L.Input(shape=dict(dim=[1, 3, 8 / 2, np.float64(8)]))
    n.conv1 = L.Convolution(n.data, num_output=4 / 2, kernel_size=3, pad=[2 / 2, 1.0])
    data, conv = n.to_proto().layer
    assert list(data.input_param.shape[0].dim) == [1, 3, 4, 8]
    assert conv.convolution_param.num_output == 2 and list(conv.convolution_param.pad) == [1, 1]


# --------------------------------------------------------------------------------------------------------- io and drawing

def test_images_come_from_open_files(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (5, 6, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), pixels)
    wanted = caffe.io.load_image(tmp_path / "image.png")
    data = (tmp_path / "image.png").read_bytes()
    for source in (io.BytesIO(data), open(tmp_path / "image.png", "rb")):
        with source:
            np.testing.assert_array_equal(caffe.io.load_image(source), wanted)
    with pytest.raises(brew.BrewError, match="not a picture"):
        caffe.io.load_image(io.BytesIO(b"nothing"))


def test_skimage_or_what_scripts_use_of_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (8, 6, 3), dtype=np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), pixels[:, :, ::-1])
    read = caffe.io.skimage.io.imread(str(tmp_path / "image.png"))
    np.testing.assert_array_equal(read, pixels)
    assert caffe.io.skimage.io.imread(str(tmp_path / "image.png"), as_gray=True).shape == (8, 6)
    resized = caffe.io.skimage.transform.resize(read, (4, 3))
    assert resized.shape == (4, 3, 3) and 0 <= resized.min() < resized.max() <= 1
    np.testing.assert_allclose(caffe.io.skimage.img_as_float(read), pixels / 255)
    with pytest.raises(AttributeError, match="scimage"):
        caffe.io.scimage


def test_coordinates_by_layer() -> None:
    data = L.Input(shape=dict(dim=[1, 3, 8, 8]))
    conv = L.Convolution(data, num_output=1, kernel_size=3, stride=2, pad=1)
    axis, scale, shift = caffe.coord_map.coord_map(conv.fn)
    back = caffe.coord_map.compose((axis, scale, shift), caffe.coord_map.inverse((axis, scale, shift)))
    assert np.allclose(back[1], 1) and np.allclose(back[2], 0)
    crop = L.Crop(conv, data, crop_param=dict(axis=2, offset=[1]))
    assert caffe.coord_map.crop_params(crop.fn)[0] == 2 and caffe.coord_map.conv_params(conv.fn)[0] == 1


def test_what_drawings_say() -> None:
    layer = pb.LayerParameter(name="conv", type="Convolution")
    layer.convolution_param.num_output, layer.convolution_param.stride[:] = 8, [2]
    layer.convolution_param.kernel_size[:] = [3]
    layer.param.add(lr_mult=2)
    assert caffe.draw.get_layer_label(layer, "LR") == '"conv\\n(Convolution)\\nkernel size: 3, stride: 2, pad: 0"'
    assert caffe.draw.get_layer_label(layer, "TB", True) == '"conv (Convolution) kernel size: 3, stride: 2, pad: 0 lr mult: 2, 1"'
    assert caffe.draw.get_edge_label(layer) == "8" and caffe.draw.get_layer_lr_mult(layer) == [2, 1]
    pool = pb.LayerParameter(name="pool", type="Pooling")
    pool.pooling_param.pool = pb.PoolingParameter.AVE
    assert "(AVE Pooling)" in caffe.draw.get_layer_label(pool, "LR") and caffe.draw.get_edge_label(pool) == '""'
    assert caffe.draw.get_pooling_types_dict() == {0: "MAX", 1: "AVE", 2: "STOCHASTIC"}
    assert re.fullmatch("#[0-9a-f]{6}", caffe.draw.choose_color_by_layertype("Pooling")) != caffe.draw.choose_color_by_layertype("?")


@pytest.mark.parametrize("blob", [pb.BlobProto(), pb.BlobProto(data=[1.0]), pb.BlobProto(data=[1.0], shape=pb.BlobShape(dim=[-1])),
                                  pb.BlobProto(raw_data=b"123", raw_data_type=pb.FLOAT16), pb.BlobProto(double_data=[1.0], shape=pb.BlobShape(dim=[2]))])
@pytest.mark.parametrize("diff", [False, True])
def test_a_blob_without_an_array_is_a_value_error_of_brew(blob: pb.BlobProto, diff: bool) -> None:
    if blob == pb.BlobProto(data=[1.0]) and not diff:
        assert caffe.io.blobproto_to_array(blob).shape == ()
        return
    with pytest.raises(ValueError, match="a blob"):
        caffe.io.blobproto_to_array(blob, diff)
    assert caffe.io.blobproto_to_array(pb.BlobProto(shape=pb.BlobShape(dim=[0, 3]))).shape == (0, 3)


@pytest.mark.parametrize("labels", [np.zeros(3), np.zeros(0), np.zeros((4, 2)), np.zeros((2, 2)), np.float32(1), np.zeros(5)])
def test_too_few_or_too_many_labels_are_named(made: dict[str, Any], labels: Any) -> None:
    with pytest.raises(brew.BrewError, match=r"takes one label for each of the 4 items, found|must be a C-contiguous array"):
        made["net"].set_input_arrays(np.ones((4, 3, 4, 4), np.float32), np.asarray(labels, np.float32))
