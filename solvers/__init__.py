"""Solvers: one file each. Importing this package registers them all."""
from __future__ import annotations

from . import sgd as sgd
from .solver import SOLVERS, Solver, get_solver

__all__ = ["SOLVERS", "Solver", "get_solver", "sgd"]
