"""Arithmetic on arrays: C++ for the CPU (`cpu`, and `onednn` where it was built), CUDA sources for the GPU (`gpu`).

The CPU module is the one compiled for the best instruction set this machine has; the environment variable BREW_ISA
(base, avx2 or avx512) forces a lesser one.
"""
from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
from types import ModuleType
from typing import Any


def _load_library(package: str, stem: str) -> None:
    """Load a shared library that a Python package brought, so that our modules find it wherever pip put it."""
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        return                                   # the system's own library serves, if there is one
    for file in files:
        if file.name.startswith(stem) and ".so" in file.name:
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)
            return


def _load_cpu() -> ModuleType:
    _load_library("scipy-openblas32", "libscipy_openblas")
    base = importlib.import_module("._cpu_base", __name__)
    isa = os.environ.get("BREW_ISA") or base.best_isa()
    if isa not in ("base", "avx2", "avx512"):
        raise ImportError(f"BREW_ISA is base, avx2 or avx512, found {isa!r}")
    return importlib.import_module(f"._cpu_{isa}", __name__)


def _load_onednn() -> ModuleType | None:
    _load_library("onednn-cpu-gomp", "libdnnl.so.3")
    try:
        return importlib.import_module("._onednn", __name__)
    except ImportError:
        return None                              # built without it: the portable engine does everything


cpu: Any = _load_cpu()
onednn: Any = _load_onednn()

__all__ = ["cpu", "onednn"]
