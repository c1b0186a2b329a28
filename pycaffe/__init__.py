"""caffe, as far as Python sees it: `import brew.pycaffe as caffe`, or `import brew; brew.install_as_caffe(); import caffe`."""
from __future__ import annotations

from .. import Layer, layer_type_list, set_device, set_mode_cpu, set_mode_gpu, set_random_seed
from .. import __version__ as __version__
from . import _caffe as _caffe
from . import classifier as classifier
from . import coord_map as coord_map
from . import detector as detector
from . import draw as draw
from . import io as io
from . import net_spec as net_spec
from . import proto as proto
from . import pycaffe as pycaffe
from .classifier import Classifier
from .detector import Detector
from .net_spec import NetSpec, layers, params, to_proto
from .pycaffe import (
    NCCL,
    TEST,
    TRAIN,
    AdaDeltaSolver,
    AdaGradSolver,
    AdamSolver,
    NesterovSolver,
    Net,
    RMSPropSolver,
    SGDSolver,
    Timer,
    get_solver,
    has_nccl,
    init_log,
    set_multiprocess,
    set_solver_count,
    set_solver_rank,
    solver_count,
    solver_rank,
)
from .pycaffe import log_message as log

__all__ = ["NCCL", "TEST", "TRAIN", "AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "Classifier", "Detector", "Layer", "NesterovSolver", "Net", "NetSpec",
           "RMSPropSolver", "SGDSolver", "Timer", "get_solver", "has_nccl", "init_log", "io", "layer_type_list", "layers", "log", "params", "proto",
           "set_device", "set_mode_cpu", "set_mode_gpu", "set_multiprocess", "set_random_seed", "set_solver_count", "set_solver_rank", "solver_count",
           "solver_rank", "to_proto"]
