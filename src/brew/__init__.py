"""brew: nets, layers and solvers declared in prototxt, trained on the CPU or the GPU. Names are pycaffe's."""
from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator

from . import layers as layers
from .engine.blob import Blob
from .engine.context import Context, set_device, set_mode_cpu, set_mode_gpu, set_random_seed, set_threads
from .engine.layer import LAYERS
from .engine.net import Net
from .layers.python import UserLayer as Layer
from .proto.errors import BrewError
from .solvers import SOLVERS, get_solver
from .solvers.adadelta import AdaDeltaSolver
from .solvers.adagrad import AdaGradSolver
from .solvers.adam import AdamSolver
from .solvers.adamw import AdamWSolver
from .solvers.lars import LARSSolver
from .solvers.nesterov import NesterovSolver
from .solvers.rmsprop import RMSPropSolver
from .solvers.sgd import SGDSolver
from .solvers.solver import Solver
from .version import __version__

TRAIN, TEST = 0, 1


def _drawing(net: Net) -> str | None:
    """The net as SVG, which notebooks show; None where drawing is not possible."""
    from .tools.draw import draw
    try:
        return draw(net.param, "TB", "svg", net.phase).decode()
    except BrewError:                            # matplotlib is not installed
        return None


Net._repr_svg_ = _drawing                        # type: ignore[attr-defined]  # here, as engine does not import tools


def layer_type_list() -> list[str]:
    """The names of all layer types, sorted."""
    return sorted(LAYERS)


class _Folders(list[str]):
    """Where modules of caffe are looked for: in brew's, then in every folder `caffe` on sys.path, for those that forks and
    users put there (SSD's caffe.model_libs, say)."""

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        yield from (os.path.join(folder, "caffe") for folder in sys.path)


def install_as_caffe() -> None:
    """Let `import caffe`, and its modules, give brew.pycaffe from now on. Raises BrewError if another caffe was imported before."""
    ours = importlib.import_module("brew.pycaffe")
    present = sys.modules.get("caffe", ours)
    if present is not ours and not getattr(present, "stands_for_brew", False):
        raise BrewError("another caffe is imported already\n  call brew.install_as_caffe() before the first import of caffe")
    sys.modules["caffe"] = ours
    ours.__path__ = _Folders(ours.__path__)
    for name in ("_caffe", "classifier", "coord_map", "detector", "draw", "io", "net_spec", "proto", "proto.caffe_pb2", "pycaffe"):
        sys.modules[f"caffe.{name}"] = importlib.import_module(f"brew.pycaffe.{name}")


__all__ = ["AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "AdamWSolver", "BrewError", "Blob", "Context",
           "LARSSolver", "LAYERS", "Layer", "Net",
           "NesterovSolver", "RMSPropSolver", "SGDSolver", "SOLVERS", "Solver", "TEST", "TRAIN", "__version__", "get_solver",
           "install_as_caffe", "layer_type_list", "layers", "set_device", "set_mode_cpu", "set_mode_gpu", "set_random_seed", "set_threads"]
