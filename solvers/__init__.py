"""Solvers: one file each. Importing this package registers them all."""
from __future__ import annotations

from . import adadelta as adadelta
from . import adagrad as adagrad
from . import adam as adam
from . import adamw as adamw
from . import lars as lars
from . import nesterov as nesterov
from . import rmsprop as rmsprop
from . import sgd as sgd
from .solver import SOLVERS, Solver, get_solver

__all__ = ["SOLVERS", "Solver", "get_solver"]
