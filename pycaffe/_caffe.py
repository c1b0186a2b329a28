"""caffe._caffe: the names of Caffe's extension module."""
from __future__ import annotations

from typing import Any

from .. import Layer as Layer
from .. import layer_type_list as layer_type_list
from .. import set_device as set_device
from .. import set_mode_cpu as set_mode_cpu
from .. import set_mode_gpu as set_mode_gpu
from .. import set_random_seed as set_random_seed
from .. import __version__ as __version__
from ..engine.blob import Blob as Blob
from ..engine.blob import BlobVec as BlobVec
from ..solvers.solver import Solver as Solver
from .pycaffe import NCCL as NCCL
from .pycaffe import AdaDeltaSolver as AdaDeltaSolver
from .pycaffe import AdaGradSolver as AdaGradSolver
from .pycaffe import AdamSolver as AdamSolver
from .pycaffe import NesterovSolver as NesterovSolver
from .pycaffe import Net as Net
from .pycaffe import RMSPropSolver as RMSPropSolver
from .pycaffe import SGDSolver as SGDSolver
from .pycaffe import Timer as Timer
from .pycaffe import get_solver as get_solver
from .pycaffe import has_nccl as has_nccl
from .pycaffe import init_log as init_log
from .pycaffe import log_message as log
from .pycaffe import set_multiprocess as set_multiprocess
from .pycaffe import set_solver_count as set_solver_count
from .pycaffe import set_solver_rank as set_solver_rank
from .pycaffe import solver_count as solver_count
from .pycaffe import solver_rank as solver_rank


class LayerVec(list[Any]):
    """Caffe's name of a list of layers; here, and of those below, brew's members are lists."""


class RawBlobVec(list[Any]): ...
class StringVec(list[str]): ...
class IntVec(list[int]): ...
class DtypeVec(list[float]): ...
class NetVec(list[Any]): ...
class BoolVec(list[bool]): ...


__all__ = [name for name in globals() if name[0].isalpha() and name not in ("annotations", "Any")]
