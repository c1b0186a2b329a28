"""Layers written in Python, as pycaffe has them."""
from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import brew
from brew.engine.errors import NetError
from brew.proto import parse, pb

MODULE = """
import brew

class Multiply(brew.Layer):
    def setup(self, bottom, top):
        self.factor = float(self.param_str)
        self.blobs.add_blob(1)
        self.blobs[0].data[...] = 1
    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].data.shape)
    def forward(self, bottom, top):
        top[0].data[...] = self.factor * bottom[0].data * self.blobs[0].data[0]
    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[0] += (top[0].diff * bottom[0].data).sum() * self.factor
        bottom[0].diff[...] = self.factor * top[0].diff * self.blobs[0].data[0]

class Broken(brew.Layer):
    def reshape(self, bottom, top):
        top[0].reshape(1)
    def forward(self, bottom, top):
        raise KeyError("mine")

class Phase(brew.Layer):
    def reshape(self, bottom, top):
        top[0].reshape()
    def forward(self, bottom, top):
        top[0].data[()] = self.phase
"""


def net(layer: str, phase: int = brew.TRAIN, param_str: str = "3", module: str = "my_layers") -> brew.Net:
    Path("my_layers.py").write_text(MODULE)
    return brew.Net(parse(f'''force_backward: true layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 5 }} }} }}
        layer {{ name: "l" type: "Python" bottom: "x" top: "y" python_param {{ module: "{module}" layer: "{layer}" param_str: "{param_str}" }} }}''', pb.NetParameter()), phase)


def test_forward_backward_and_parameters(device: str) -> None:
    n = net("Multiply")
    assert (n.forward(x=np.full((2, 5), 2))["y"] == 6).all()
    assert (n.backward(y=np.ones((2, 5)))["x"] == 3).all() and n.params["l"][0].diff[0] == 60
    n.blobs["x"].reshape(4, 1)
    assert n.forward(x=np.ones((4, 1)))["y"].shape == (4, 1)
    n.save("w.caffemodel")
    n.params["l"][0].data[0] = 9
    n.copy_from("w.caffemodel")
    assert n.params["l"][0].data[0] == 1


def test_its_exceptions_are_its_own() -> None:
    with pytest.raises(KeyError, match="mine"):
        net("Broken").forward()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions take notes from Python 3.11 on")
@pytest.mark.parametrize("method", ["setup", "reshape", "forward", "backward"])
def test_its_exceptions_say_of_which_layer_they_are(method: str) -> None:
    body = {name: "        raise KeyError('mine')" if name == method else "        top[0].reshape(*bottom[0].shape)" if name == "reshape" else "        pass"
            for name in ("setup", "reshape", "forward", "backward")}
    text = "import brew\nclass Raises(brew.Layer):\n" + "\n".join(
        f"    def {name}(self, {'top, down, bottom' if name == 'backward' else 'bottom, top'}):\n{line}" for name, line in body.items())
    Path(f"raises_{method}.py").write_text(text)
    Path("raises.prototxt").write_text(f"""force_backward: true layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ dim: 2 }} }} }}
        layer {{ name: "mine" type: "Python" bottom: "x" top: "y" python_param {{ module: "raises_{method}" layer: "Raises" }} }}""")
    with pytest.raises(KeyError, match="mine") as e:
        n = brew.Net("raises.prototxt", brew.TRAIN)
        n.forward()
        n.backward()
    assert e.value.__notes__ == ['in layer "mine" (type "Python"), raises.prototxt:2:9']


@pytest.mark.parametrize("phase", [brew.TRAIN, brew.TEST])
def test_it_knows_the_phase(phase: int) -> None:
    assert net("Phase", phase).forward()["y"] == phase


def test_what_is_not_there_is_named() -> None:
    with pytest.raises(NetError, match='the module "my_layers" has no class "Nothing"'):
        net("Nothing")
    with pytest.raises(NetError, match='there is no Python module "gone_layers"'):
        net("Nothing", module="gone_layers")
