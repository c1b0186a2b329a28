"""brew: nets, layers and solvers declared in prototxt, trained on the CPU or the GPU. Names are pycaffe's."""
from __future__ import annotations

from . import layers as layers
from .engine.blob import Blob
from .engine.device import set_device, set_mode_cpu, set_mode_gpu, set_threads
from .engine.layer import LAYERS
from .engine.net import Net
from .engine.random import set_random_seed
from .layers.python import UserLayer as Layer
from .proto.errors import BrewError
from .solvers import SOLVERS, get_solver
from .solvers.adadelta import AdaDeltaSolver
from .solvers.adagrad import AdaGradSolver
from .solvers.adam import AdamSolver
from .solvers.nesterov import NesterovSolver
from .solvers.rmsprop import RMSPropSolver
from .solvers.sgd import SGDSolver
from .version import __version__

TRAIN, TEST = 0, 1


def layer_type_list() -> list[str]:
    """The names of all layer types, sorted."""
    return sorted(LAYERS)


def install_as_caffe() -> None:
    """Let `import caffe`, and its modules, give brew.pycaffe from now on. Raises BrewError if another caffe was imported before."""
    import importlib
    import sys

    ours = importlib.import_module("brew.pycaffe")
    if sys.modules.get("caffe", ours) is not ours:
        raise BrewError("another caffe is imported already\n  call brew.install_as_caffe() before the first import of caffe")
    sys.modules["caffe"] = ours
    for name in ("classifier", "coord_map", "detector", "draw", "io", "net_spec", "proto", "proto.caffe_pb2", "pycaffe"):
        sys.modules[f"caffe.{name}"] = importlib.import_module(f"brew.pycaffe.{name}")
    sys.modules["caffe._caffe"] = sys.modules["caffe.pycaffe"]


__all__ = ["AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "BrewError", "Blob", "LAYERS", "Layer", "Net", "NesterovSolver", "RMSPropSolver", "SGDSolver", "SOLVERS", "TEST", "TRAIN", "__version__", "get_solver", "install_as_caffe", "layer_type_list", "layers",
           "set_device", "set_mode_cpu", "set_mode_gpu", "set_random_seed", "set_threads"]
