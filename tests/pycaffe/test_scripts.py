"""Scripts in the style of Caffe's examples and of public repositories run unchanged, with `brew run`."""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).with_name("scripts")
RUNS = {"deep_dream": [], "saliency": ["7"], "grad_cam": [], "net_surgery": [], "siamese": [], "ssd_net": [], "roi_layer": [], "captioner": [],
        "lmdb_writer": [], "digits_driver": [sys.executable, "-m", "brew"]}
BESIDE = {"scipy_free", "caffe_pb2_of"}                        # modules that scripts import


def test_every_script_is_run() -> None:
    assert {path.stem for path in SCRIPTS.glob("*.py")} == {*RUNS, *BESIDE}


@pytest.mark.parametrize("name", RUNS)
def test_a_script_runs(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(SCRIPTS, tmp_path / "scripts")
    run = [sys.executable, "-m", "brew", "run", "-no_gpu", "warn", str(folder / f"{name}.py"), *RUNS[name]]
    found = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, timeout=300, env={**os.environ})
    assert found.returncode == 0 and found.stdout.splitlines()[-1].startswith("ok"), found.stdout + found.stderr
