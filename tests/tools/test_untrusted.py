"""What a foreign prototxt may run: nothing when it is read; in training, layer classes of the user's modules."""
from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import brew
from brew.engine.errors import NetError
from brew.engine.context import dry_run
from brew.proto import parse, pb
from brew.pycaffe.draw import draw_net_to_file
from brew.tools.cli import main, make_parser
from brew.tools.prune import prune
from brew.tools.surgery import Model, cast, fold
from brew.tools.torch_import import import_state

EVIL = 'open("pwned", "w").close()\nimport brew\nclass L(brew.Layer): ...\n'
HOSTILE = [("os", "abort"), ("sys", "exit"), ("antigravity", "L"), ("this", "s"), ("evil", "L"), ("evil_package", "L"),
           ("evil_package.inner", "L"), ("builtins", "exec"), ("subprocess", "Popen"), ("pip.__main__", "L"),
           ("../evil", "L"), (".evil", "L"), ("__main__", "main"), ("idlelib.idle", "L"), ("ctypes", "CDLL"), ("", "L"),
           ("numpy.f2py.__main__", "main"), ("http.server", "test")]
SHAPES = ['bottom: "x" top: "y"', 'top: "y"', 'bottom: "conv" top: "conv"', 'bottom: "x"',
          'bottom: "x" top: "y" loss_weight: 1']                 # of the Python layer


def hostile_net(module: str, layer: str, ends: str = SHAPES[0]) -> str:
    """A net with this Python layer, and layers that do and do not depend on it."""
    read = "y" if '"y"' in ends else "conv" if '"conv"' in ends else "x"
    python = f'module: "{module}" layer: "{layer}" param_str: "touch pwned"'
    return f"""name: "hostile"
layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 dim: 8 dim: 8 }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "x" top: "conv"
        convolution_param {{ num_output: 4 kernel_size: 3 }} }}
layer {{ name: "py" type: "Python" {ends} python_param {{ {python} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "{read}" top: "ip" inner_product_param {{ num_output: 5 }} }}
layer {{ name: "relu" type: "ReLU" bottom: "ip" top: "ip" }}
layer {{ name: "prob" type: "Softmax" bottom: "ip" top: "prob" }}
"""


def test_reading_imports_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text(EVIL)
    (tmp_path / "evil_package").mkdir()
    for name in ("__init__.py", "inner.py"):
        (tmp_path / "evil_package" / name).write_text(EVIL)
    (tmp_path / "warm_up.prototxt").write_text(hostile_net("nothing_of_this_name", "L"))
    names = []
    for k, (module, layer) in enumerate(HOSTILE):
        names.append(f"hostile{k}.prototxt")
        (tmp_path / names[-1]).write_text(hostile_net(module, layer, SHAPES[k % len(SHAPES)]))
    command = [sys.executable, str(Path(__file__).with_name("watched_reading.py")), *names]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0 and (tmp_path / "events").exists(), result.stderr[-3000:]
    events, codes = json.loads((tmp_path / "events").read_text())
    assert events == [] and not (tmp_path / "pwned").exists()
    # check, summary, draw_net, upgrade and filters pass; export refuses
    assert all(code[:9] == [0] * 8 + [1] for code in codes.values()), codes


def test_the_documentation_says_of_every_command_whether_it_imports() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs/security.md").read_text()
    table = text.split("| --- | --- |\n")[1].split("\n\n")[0]
    assert sorted(set(re.findall("`([a-z][a-z_-]*)`", table))) == sorted(make_parser().commands())


# ------------------------------------------------------------------------ what is known without the import, and with it


MINE = """
import brew
class Twice(brew.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(7)
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
class Broken(brew.Layer):
    def reshape(self, bottom, top):
        raise KeyError("mine")
"""


def written(name: str = "net.prototxt", layer: str = "Twice", ends: str = SHAPES[0], module: str = "mine_known") -> str:
    Path(f"{module}.py").write_text(MINE)
    Path(name).write_text(hostile_net(module, layer, ends))
    return name


def test_check_says_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-model", written()]) == 0
    assert capsys.readouterr().out == (
        'net.prototxt:5:1: note: layer "py" (type "Python") is not imported: the shapes of its tops (y) are unknown\n'
        '  layers that depend on them are not checked: ip, relu, prob\n'
        '  -python imports its module, "mine_known", which runs it\n'
        'net.prototxt: no problem found\n')
    assert "mine_known" not in sys.modules
    assert main(["check", "-model", "net.prototxt", "-python"]) == 0
    assert capsys.readouterr().out == "net.prototxt: no problem found\n"
    assert main(["check", "-model", written(layer="Broken"), "-python"]) == 1
    err = capsys.readouterr().err
    assert "net.prototxt:5:1: layer \"py\" (type \"Python\"): its class raises KeyError: 'mine'" in err


def test_check_still_checks_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    """Layers beside a Python layer, and of those behind it what does not depend on shapes."""
    text = Path(written()).read_text().replace("kernel_size: 3", "kernel_size: 99").replace('"ReLU"', '"Relu"')
    Path("net.prototxt").write_text(text.replace('"Softmax" bottom: "ip"', '"Softmax" bottom: "ip" bottom: "x"'))
    assert main(["check", "-model", "net.prototxt"]) == 1
    err = capsys.readouterr().err
    for part in ("the kernel (99, 99) does not fit", 'no layer type is called "Relu"',
                 'layer "prob" (type "Softmax"): takes 1 bottom blob, found 2'):
        assert part in err
    assert '(type "Python")' not in err


@pytest.mark.parametrize("ends", SHAPES)
def test_check_has_no_false_problems(ends: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "-model", written(ends=ends)]) == 0, capsys.readouterr().err


def test_summary_says_what_is_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "-model", written(module="mine_summed")]) == 0
    out = capsys.readouterr().out
    for row in ("conv +Convolution +conv +2 x 4 x 6 x 6 +112", "py +Python +y( +unknown){4}",
                "prob +Softmax +prob( +unknown){4}"):
        assert re.search(row, out), out
    assert "the layers listed last: they depend on the Python layer py, not imported (-python imports)" in out
    assert "parameters  112 " in out
    assert "mine_summed" not in sys.modules
    assert main(["summary", "-model", "net.prototxt", "-python"]) == 0
    out = capsys.readouterr().out
    assert "parameters  1,084 " in out and "unknown" not in out                 # 112 + 7 + 5 * 192 + 5


def test_pictures_say_what_is_unknown() -> None:
    for flags, count in (([], 3), (["-python"], 0)):                             # ReLU is in InnerProduct's box
        assert main(["draw_net", written(module="mine_drawn"), "net.svg", *flags]) == 0
        text = Path("net.svg").read_text()
        assert text.count(">shape unknown<") == count and "2 x 4 x 6 x 6" in text
        assert ("mine_drawn" in sys.modules) == bool(flags)
    draw_net_to_file(parse(hostile_net("mine_never", "Twice"), pb.NetParameter()), "api.svg")
    assert "shape unknown" in Path("api.svg").read_text()


def test_surgery_works_on_what_is_known() -> None:
    """A convolution that a Python layer reads is not pruned, and layers behind one are refused where shapes matter."""
    before, after = hostile_net("mine_cut", "Twice", 'bottom: "conv" top: "y"').split('layer { name: "py"')
    before += 'layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }\n'
    params = brew.Net(parse(before, pb.NetParameter())).params
    model = Model(parse(f'{before}layer {{ name: "py"{after}', pb.NetParameter()),
                  {name: [blob.data.copy() for blob in blobs] for name, blobs in params.items()})
    assert fold(model) == ["scale"]
    with pytest.raises(NetError, match='layer "ip" .*depends on a Python layer, which is not imported here'):
        cast(model, {"ip": "ip"})
    with pytest.raises(NetError, match='layer "py" .*depends on a Python layer'):
        prune(model, {"conv": 0.5})
    with pytest.raises(NetError, match='layer "py" .*depends on a Python layer'):
        import_state(model.whole_net(), {}, {})
    assert "mine_cut" not in sys.modules


def test_dry_nets_leave_out_what_is_unknown() -> None:
    with dry_run():
        net = brew.Net(parse(hostile_net("mine_dry", "Twice"), pb.NetParameter()))
    assert [layer.name for layer in net.unknown if layer.type != "Split"] == ["py", "ip", "relu", "prob"]
    assert list(net.params) == ["conv"]


@pytest.mark.parametrize("layer", [
    'type: "ImageData" image_data_param { source: "/dev/zero" batch_size: 1 }',
    'type: "ImageData" image_data_param { source: "devices.txt" batch_size: 1 }',
    'type: "ImageData" transform_param { mean_file: "/dev/zero" } image_data_param { source: "list.txt" batch_size: 1}',
    'type: "HDF5Data" hdf5_data_param { source: "/dev/zero" batch_size: 1 }',
    'type: "HDF5Data" hdf5_data_param { source: "devices_h5.txt" batch_size: 1 }',
    'type: "WindowData" window_data_param { source: "/dev/zero" batch_size: 1 } transform_param { crop_size: 4 }'])
def test_devices_are_not_read(layer: str, capsys: pytest.CaptureFixture[str]) -> None:
    """/dev/zero has no end: reading it takes all memory there is."""
    cv2.imwrite("a.png", np.zeros((4, 4, 3), np.uint8))
    for name, text in (("list.txt", "a.png 0\n"), ("devices.txt", "/dev/zero 0\n"), ("devices_h5.txt", "/dev/zero\n")):
        Path(name).write_text(text)
    Path("net.prototxt").write_text(f'layer {{ name: "data" top: "data" top: "label" {layer} }}')
    main(["check", "-model", "net.prototxt"])
    out = capsys.readouterr()
    assert "/dev/zero" in out.out + out.err and "Traceback" not in out.err


# -------------------------------------------------------------------------------------------------------- nets that run


@pytest.mark.parametrize("module, layer, message", [
    ("os", "getcwd", 'the module "os" belongs to Python\'s standard library\n'
                     '  a layer must be in a module of your own: give its file another name'),
    ("xml.dom", "Node", 'the module "xml.dom" belongs to Python\'s standard library'),
    ("builtins", "exec", 'the module "builtins" belongs to Python\'s standard library'),
    ("evil.__main__", "L", 'the module "evil.__main__" is a program: importing it would run it'),
    ("../evil", "L", '"../evil" is not the name of a Python module'),
    ("", "L", '"" is not the name of a Python module'), (".evil", "L", '".evil" is not the name of a Python module'),
    ("numpy", "save", '"save" of the module "numpy" is not a subclass of brew.Layer (caffe.Layer)'),
    ("numpy", "ndarray", '"ndarray" of the module "numpy" is not a subclass of brew.Layer (caffe.Layer)'),
    ("brew.layers.pooling", "PoolingLayer", "is not a subclass of brew.Layer (caffe.Layer)"),
    ("leaves", "L", 'the module "leaves" ends the process when it is imported (SystemExit)')])
def test_only_layer_classes_of_own_modules_are_run(module: str, layer: str, message: str) -> None:
    Path("leaves.py").write_text("import sys\nsys.exit(0)\n")
    with pytest.raises(NetError) as error:
        brew.Net(parse(hostile_net(module, layer), pb.NetParameter()))
    assert 'layer "py" (type "Python")' in str(error.value) and message in str(error.value)


def test_a_module_that_shadows_the_standard_library_is_refused_before_it_runs() -> None:
    Path("turtle.py").write_text(EVIL)
    with pytest.raises(NetError, match="standard library"):
        brew.Net(parse(hostile_net("turtle", "L"), pb.NetParameter()))
    assert not Path("pwned").exists()


def test_layers_of_a_script_are_found() -> None:
    """`__main__` is imported already: naming it runs nothing."""
    text = hostile_net("__main__", "Twice")
    Path("script.py").write_text(f"{MINE}\nfrom brew.proto import parse, pb\n"
                                 f'print(brew.Net(parse({text!r}, pb.NetParameter())).blobs["y"].shape)\n')
    result = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=300)
    assert result.stdout == "(2, 3, 8, 8)\n", result.stderr


PLACES = """
import sys
from pathlib import Path
import brew
import helper_beside
seen = list(sys.path)
class Lazy(brew.Layer):
    def setup(self, bottom, top):
        import lazy_beside
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
class Early(Lazy):
    def setup(self, bottom, top):
        assert helper_beside.VALUE == 3
"""


def test_the_working_directory_is_on_the_path_only_while_a_layer_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Modules beside a layer are found by imports at its top; by later ones only through PYTHONPATH."""
    here = str(Path.cwd())
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", here)])
    before = list(sys.path)
    Path("places_layers.py").write_text(PLACES)
    Path("helper_beside.py").write_text("VALUE = 3\n")
    Path("lazy_beside.py").write_text("VALUE = 4\n")
    brew.Net(parse(hostile_net("places_layers", "Early"), pb.NetParameter()))
    assert sys.path == before and sys.modules["places_layers"].seen == [here, *before]
    with pytest.raises(ModuleNotFoundError, match="lazy_beside"):
        brew.Net(parse(hostile_net("places_layers", "Lazy"), pb.NetParameter()))
    assert sys.path == before
    with pytest.raises(NetError, match="no Python module"):
        brew.Net(parse(hostile_net("places_missing", "Lazy"), pb.NetParameter()))
    assert sys.path == before
    monkeypatch.setattr(sys, "path", [*before, here])                            # as PYTHONPATH does
    brew.Net(parse(hostile_net("places_layers", "Lazy"), pb.NetParameter()))
    assert sys.path == [*before, here]
