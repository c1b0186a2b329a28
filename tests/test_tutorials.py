"""The tutorials in docs/tutorials are run as they stand: files written, commands and Python executed, output compared.

A block's first word says what it is: `sh` and `python` run, one after the other in one folder (Python in one interpreter);
`python NAME`, `prototxt NAME`, ... is a file; `text` is what the block before it prints, but for numbers, and with "..." for
lines left out; `console` and others are only shown.
"""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from brew.engine.layer import LAYERS
from brew.kernels.gpu import INCLUDE
from brew.tools.gradient_check import check_gradient, one_layer_net

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"^```(\w+) ?([\w./-]*)\n(.*?)^```$", re.M | re.S)
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(e[-+]?\d+)?|\bnan\b")

# Runs the steps it reads from stdin, and prints what each printed as a line of JSON.
RUNNER = """
import contextlib, io, json, subprocess, sys
sys.path.insert(0, "")
names = {"__name__": "__main__"}
for kind, text in json.load(sys.stdin):
    out = io.StringIO()
    if kind == "python":
        with contextlib.redirect_stdout(out):
            exec(compile(text, "<tutorial>", "exec"), names)
        said = out.getvalue()
    else:
        done = subprocess.run(["bash", "-e", "-c", text], capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(f"{text}\\n{done.stdout}\\n{done.stderr}")
        said = done.stdout
    print(json.dumps(said), flush=True)
"""


def plain(line: str) -> str:
    """A line without its numbers and without the widths that they gave to columns."""
    return " ".join(NUMBER.sub("#", line).split())


def assert_said(said: str, expected: str) -> None:
    """Every line of `expected` in its order; without a "..." between them, one right behind the other."""
    lines, at, gap = [plain(line) for line in said.splitlines()], 0, True
    for line in expected.splitlines():
        if line.strip() == "...":
            gap = True
            continue
        wanted = plain(line)
        while gap and at < len(lines) and lines[at] != wanted:
            at += 1
        assert at < len(lines) and lines[at] == wanted, f"{line!r} is not what was printed:\n{said}"
        at, gap = at + 1, False


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "tutorials").glob("[0-9]*.md")), ids=lambda page: page.stem)
def test_a_tutorial(page: Path, tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    steps, expected = [], []
    for kind, name, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if name:
            steps.append(("python", f"open({name!r}, 'w').write({text!r})"))
        elif kind in ("sh", "python"):
            steps.append((kind, text))
        elif kind == "text":
            expected.append((len(steps) - 1, text))
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-c", RUNNER], cwd=tmp_path, input=json.dumps(steps), capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(said) == len(steps) > 0
    for step, text in expected:
        assert_said(said[step], text)


def test_the_native_layer_on_every_device(device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "tutorials" / "6-write-a-layer.md").read_text(encoding="utf-8")
    for _, name, text in BLOCK.findall(page):
        if name:
            (tmp_path / name).write_text(text)
    subprocess.run(["g++", "-O2", "-shared", "-fPIC", f"-I{INCLUDE}", "mish.cpp", "-o", "libmish.so"], check=True)
    before = dict(LAYERS)
    try:
        exec(compile((tmp_path / "mish.py").read_text(), str(tmp_path / "mish.py"), "exec"), {"__name__": "mish", "__file__": str(tmp_path / "mish.py")})
        net = one_layer_net('type: "Mish" top: "y"', (3, 24, 5))
        x = net.blobs["b0"].data
        x[...] = np.random.default_rng(0).normal(0, 4, x.shape)
        np.testing.assert_allclose(net.forward()["y"], x * np.tanh(np.logaddexp(0, x)), rtol=1e-4, atol=1e-6)
        check_gradient(net)
    finally:
        LAYERS.clear()
        LAYERS.update(before)


def test_every_tutorial_is_in_the_list() -> None:
    folder = ROOT / "docs" / "tutorials"
    linked = re.findall(r"\]\(([\w-]+\.md)\)", (folder / "readme.md").read_text(encoding="utf-8"))
    assert linked == sorted(page.name for page in folder.glob("[0-9]*.md"))
