"""brew run, brew install-caffe, and what the command line does for scripts that were written for Caffe."""
from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from brew.tools.cli import main

LAYER = """
import json
import caffe


class PL(caffe.Layer):
    def setup(self, bottom, top):
        self.k = json.loads(self.param_str)["k"]

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = self.k * bottom[0].data

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = self.k * top[0].diff
"""
NET = """
layer { name: "d" type: "DummyData" top: "x" top: "l" dummy_data_param { shape { dim: 4 dim: 3 } shape { dim: 4 } } }
layer { name: "b" type: "Python" bottom: "x" top: "b" python_param { module: "pl" layer: "PL" param_str: '{"k": 3}' } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "b" bottom: "l" top: "loss" }
"""
SCRIPT = """
import multiprocessing, os, subprocess, sys
import caffe
from caffe import layers as L, params as P
from caffe.proto import caffe_pb2
import caffe._caffe


def version(_):
    import caffe
    return caffe.__version__


if __name__ == "__main__":
    print(sys.argv, __file__ == sys.argv[0], caffe._caffe.Net is caffe.Net, caffe_pb2.Datum is caffe.proto.caffe_pb2.Datum)
    print(subprocess.run([sys.executable, "-c", "import caffe; print(caffe.__name__)"], capture_output=True, text=True).stdout)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print("spawned", pool.map(version, [0]) == [caffe.__version__])
    sys.exit(int(sys.argv[1]))
"""


def brew(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "brew", *words], cwd=cwd, capture_output=True, text=True, timeout=120,
                          env={**os.environ, **environment})


def test_a_script_runs_unchanged(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "script.py").write_text(SCRIPT)
    found = brew("run", "folder/script.py", "3", "--gray=true", "-gpu", "0", cwd=tmp_path)
    assert found.returncode == 3, found.stderr
    assert found.stdout.split("\n")[:3] == ["['folder/script.py', '3', '--gray=true', '-gpu', '0'] True True True", "brew.pycaffe", ""]
    assert "spawned True" in found.stdout
    (tmp_path / "tools_of_mine").mkdir()
    (tmp_path / "tools_of_mine" / "go.py").write_text("import caffe, sys; print(caffe.TEST, sys.argv[1:])")
    assert brew("run", "-m", "tools_of_mine.go", "-h", cwd=tmp_path).stdout == "1 ['-h']\n"


def test_modules_that_a_fork_adds_to_caffe_are_found(tmp_path: Path) -> None:
    """SSD's scripts import caffe.model_libs, which lies in their tree's python/caffe, beside modules that are brew's here."""
    theirs = tmp_path / "python" / "caffe"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("raise ImportError('this needs libcaffe')\n")
    (theirs / "io.py").write_text("raise ImportError('theirs')\n")
    (theirs / "model_libs.py").write_text("import caffe\nfrom caffe import layers as L\ndef body(net): net.relu = L.ReLU(net.data)\n")
    (tmp_path / "script.py").write_text("""import sys
sys.path.insert(0, "./python")
import caffe, caffe.io
from caffe.model_libs import *
n = caffe.NetSpec()
n.data = L.Input(shape=dict(dim=[1]))
body(n)
print(caffe.io.__name__, [layer.type for layer in n.to_proto().layer])
""")
    found = brew("run", "script.py", cwd=tmp_path)
    assert found.stdout == "brew.pycaffe.io ['Input', 'ReLU']\n", found.stderr
    with_stand_in = subprocess.run([sys.executable, "-c", "import brew; brew.install_as_caffe(); import caffe.nothing"], cwd=tmp_path,
                                   capture_output=True, text=True)
    assert "No module named 'caffe.nothing'" in with_stand_in.stderr


def test_an_exception_of_a_script_is_shown_as_python_shows_it(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import caffe\ncaffe.Net('nothing.prototxt', caffe.TEST)\n")
    found = brew("run", "script.py", cwd=tmp_path)
    first, where, *_ = found.stderr.splitlines()
    assert found.returncode == 1 and first.startswith("Traceback") and where.endswith('script.py", line 2, in <module>')
    assert "runpy" not in found.stderr and "nothing.prototxt" in found.stderr.splitlines()[-1]
    found = brew("run", "missing.py", cwd=tmp_path)
    assert (found.returncode, found.stderr) == (1, "brew: missing.py: there is no such script\n")
    assert "needs a script" in brew("run", cwd=tmp_path).stderr


def without_gpu() -> bool:
    try:
        import cupy
        return not cupy.cuda.runtime.getDeviceCount()
    except Exception:                                          # of CuPy or of the driver
        return True


@pytest.mark.skipif(not without_gpu(), reason="there is a GPU")
def test_scripts_may_ask_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import caffe\ncaffe.set_device(0)\nfor _ in range(3): caffe.set_mode_gpu()\nprint('went on')\n")
    found = brew("run", "script.py", cwd=tmp_path)
    assert found.returncode == 1 and "BREW_NO_GPU=warn" in found.stderr and "went on" not in found.stdout
    for words, environment in ((["-no_gpu", "warn"], {}), ([], {"BREW_NO_GPU": "warn"})):
        found = brew("run", *words, "script.py", cwd=tmp_path, **environment)
        assert (found.returncode, found.stdout) == (0, "went on\n") and found.stderr.count("running on the CPU") == 1
    assert "BREW_NO_GPU is error or warn, found 'maybe'" in brew("run", "script.py", cwd=tmp_path, BREW_NO_GPU="maybe").stderr


def test_the_command_line_offers_caffe_to_layers(tmp_path: Path) -> None:
    (tmp_path / "pl.py").write_text(LAYER)
    (tmp_path / "net.prototxt").write_text(NET)
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0 lr_policy: "fixed" max_iter: 2 solver_mode: CPU snapshot_prefix: "s"')
    for words in (["check", "-python", "-model", "net.prototxt"], ["train", "-solver", "solver.prototxt"],
                  ["time", "-model", "net.prototxt", "-iterations", "1"], ["summary", "-python", "-model", "net.prototxt"]):
        found = brew(*words, cwd=tmp_path)
        assert found.returncode == 0, (words, found.stderr)
    theirs = tmp_path / "theirs" / "caffe"
    theirs.mkdir(parents=True)
    (theirs / "__init__.py").write_text("Layer = object\n")
    found = brew("check", "-python", "-model", "net.prototxt", cwd=tmp_path, PYTHONPATH=os.pathsep.join([str(theirs.parent), os.environ.get("PYTHONPATH", "")]))
    assert "is not a subclass of brew.Layer" in found.stderr + found.stdout           # another caffe is not hidden


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands for this environment's site-packages."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"purelib": str(folder)})
    monkeypatch.syspath_prepend(str(folder))
    return folder


def test_caffe_is_installed_and_removed(packages: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def script(code: str, **more: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join([str(packages), *([os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else [])])
        return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path, **more})

    code = "from caffe.proto import caffe_pb2; import caffe._caffe; import caffe.io, caffe, brew; print(caffe is brew.pycaffe, caffe.io.caffe_pb2 is caffe_pb2)"
    assert script(code).returncode != 0
    assert main(["install-caffe"]) == 0 and "--remove takes it away" in capsys.readouterr().out
    assert main(["install-caffe"]) == 0                               # again: the same
    found = script(code)
    assert found.stdout == "True True\n", found.stderr
    blocked = "import sys; sys.modules['brew'] = None; import caffe"
    assert f"caffe was brew's, which is not installed any more: delete {packages / 'caffe'}" in script(blocked).stderr
    assert main(["install-caffe", "--remove"]) == 0 and not list(packages.iterdir())
    assert main(["install-caffe", "--remove"]) == 0 and "there is no caffe of brew's" in capsys.readouterr().out


def test_another_caffe_is_left_alone(packages: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (packages / "caffe").mkdir()
    (packages / "caffe" / "__init__.py").write_text("Net = None\n")
    assert main(["install-caffe"]) == 1 and f"{packages / 'caffe'}: another caffe is here already" in capsys.readouterr().err
    assert main(["install-caffe", "--remove"]) == 0 and (packages / "caffe" / "__init__.py").read_text() == "Net = None\n"
    (packages / "caffe" / "__init__.py").unlink()
    (packages / "caffe" / "notes.txt").write_text("mine")
    assert main(["install-caffe"]) == 1 and "another caffe" in capsys.readouterr().err


def test_an_environment_that_cannot_be_written_is_named(packages: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    (packages / "file").write_text("")
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"purelib": str(packages / "file")})
    assert main(["install-caffe"]) == 1 and "cannot be changed: Not a directory" in capsys.readouterr().err
