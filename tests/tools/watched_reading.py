"""Reads nets with each command that reads nets. What was imported, run or opened to be written meanwhile goes to the
file "events", with the exit codes. test_untrusted.py runs this in its own process: audit hooks cannot be removed."""
from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from brew.proto import pb, read_net, to_text
from brew.pycaffe.draw import draw_net_to_file
from brew.tools.cli import main

OUTPUTS = {"a.svg", "a.png", "a.onnx", "b", "c", "new.prototxt", "new.caffemodel"}
WATCHED = {"import", "exec", "compile", "os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn",
           "os.kill", "os.rmdir", "os.mkdir", "os.symlink", "os.link", "os.chmod"}
FAMILIES = {"subprocess", "socket", "ctypes", "webbrowser", "shutil", "urllib"}
watching: list[bool] = []
events: list[tuple[str, str]] = []


def commands(net: str) -> list[list[str]]:
    reading = ["check -model NET", "check -solver NET_solver", "summary -model NET", "summary -model NET -phase TRAIN",
               "draw_net NET a.svg", "upgrade_net_proto_text NET new.prototxt",
               "upgrade_net_proto_binary w.caffemodel new.caffemodel", "filters w.caffemodel conv a.png",
               "export -model NET -output a.onnx"]
    surgery = [f"surgery {words} -model NET -weights w.caffemodel -out_model b -out_weights c" for words in (
        "drop ip", "fold", "cast ip", "prune conv=0.5", "transplant -donor w.caffemodel", "rename ip=fc")]
    return [line.replace("NET", net).split() for line in (*reading, *surgery)]


def read(net: str) -> list[int]:
    """The exit code of each command."""
    Path(f"{net}_solver").write_text(f'net: "{net}" test_iter: 1 test_interval: 1 base_lr: 1 lr_policy: "fixed"')
    weights = pb.NetParameter()
    blob = pb.BlobProto(shape=pb.BlobShape(dim=[4, 3, 3, 3]), data=[1] * 108)
    weights.layer.add(name="conv", type="Convolution", blobs=[blob])
    Path("w.caffemodel").write_bytes(weights.SerializeToString())
    watching.append(True)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        codes = [main(command) for command in commands(net)]
    to_text(read_net(net))
    draw_net_to_file(read_net(net), "a.png")
    watching.clear()
    return codes


def is_output(path: Any) -> bool:
    """A file that a command writes, by its name or the one under which it is written aside; or a folder, where a file
    without a name is made."""
    return os.path.isdir(path) or os.path.basename(os.fsdecode(path)).strip(".").split(f".{os.getpid()}.")[0] in OUTPUTS


def hook(event: str, args: tuple[Any, ...]) -> None:
    if not watching:
        return
    changes = event == "os.remove"
    if event == "open" and isinstance(args[0], (str, bytes)) and isinstance(args[2], int):
        changes = bool(args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    if changes and not is_output(args[0]) or event in WATCHED or event.split(".")[0] in FAMILIES:
        events.append((event, str(args[:2])[:200]))


if __name__ == "__main__":
    sys.addaudithook(hook)
    read("warm_up.prototxt")                                   # what brew itself imports when it is needed
    events.clear()
    codes = {net: read(net) for net in sys.argv[1:]}
    Path("events").write_text(json.dumps([events, codes]))
