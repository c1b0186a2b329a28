"""What tests share: the devices they run on, and where recorded answers and data sets lie."""
from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import brew
from brew.engine import context as devices
from brew.kernels import onednn

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def load_shim() -> ModuleType:
    """tests/cudashim/cudashim.py as a module."""
    spec = importlib.util.spec_from_file_location("cudashim", Path(__file__).parent / "cudashim" / "cudashim.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shim() -> ModuleType:
    return load_shim()


def enter(name: str) -> object:
    """A context in which nets are built for the device of this name; skips where there is none."""
    if name == "onednn":
        if onednn is None:
            pytest.skip("brew was built without oneDNN")
        return devices.using(devices.cpu_device(), "onednn")
    if name == "portable":
        return devices.using(devices.cpu_device(), "caffe")
    if name == "shim":
        return devices.using(devices.Gpu(load_shim().ShimBackend(order=2)))
    try:
        from brew.kernels.gpu import CupyBackend
        return devices.using(devices.Gpu(CupyBackend(0)))
    except (ImportError, RuntimeError) as e:
        pytest.skip(f"no GPU: {str(e).splitlines()[0]}")


@pytest.fixture(params=["onednn", "portable", "shim", "gpu"])
def device(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs on oneDNN, on the portable engine, with the CUDA sources on the CPU, and on a GPU where there is one."""
    with enter(request.param):  # type: ignore[attr-defined]
        yield request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with Caffe's recorded answers, data sets and public prototxts."""
    if not SHARED.is_dir():
        pytest.skip(f"no recorded answers and data sets at {SHARED}")
    return SHARED


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test runs in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def same_draws(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module's generator RNG starts anew for each test: its numbers do not depend on the tests that ran before."""
    if hasattr(request.module, "RNG"):
        monkeypatch.setattr(request.module, "RNG", np.random.default_rng(0))


@pytest.fixture(autouse=True)
def on_the_cpu() -> Iterator[None]:
    """Each test begins on the CPU, and what is given no seed draws the same numbers every time."""
    brew.set_random_seed(1701)
    yield
    brew.set_mode_cpu()
