"""brew install-tools: Caffe's programs under their own names, so that scripts that call build/tools/caffe run."""
from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from ..engine.errors import BrewError, Position

MARK = "# made by brew install-tools"
COMMANDS = ("convert_imageset", "compute_image_mean", "extract_features", "upgrade_net_proto_text",
            "upgrade_net_proto_binary", "upgrade_solver_proto_text", "device_query")
# Where Caffe's build puts them -> the command of brew.
PROGRAMS = {"tools/caffe": "", **{f"tools/{name}": name for name in COMMANDS},
            "examples/mnist/convert_mnist_data": "convert_mnist_data",
            "examples/cifar10/convert_cifar_data": "convert_cifar_data",
            "examples/siamese/convert_mnist_siamese_data": "convert_mnist_siamese_data",
            "examples/cpp_classification/classification": "classification"}


def install_tools(args: argparse.Namespace) -> int:
    """Write them, each also with the ending .bin, below the folder that stands for Caffe's build. Raises BrewError where
    a file of another origin has one of their names, before any is written."""
    build = Path(args.folder)
    build = build.parent if build.name == "tools" else build
    files = {build / f"{place}{end}": command for place, command in PROGRAMS.items() for end in ("", ".bin")}
    try:
        for path in files:
            if path.exists() and not (path.is_file() and MARK.encode() in path.read_bytes()[:400]):
                raise BrewError("a file that brew did not make is here; move it away, or choose another folder",
                                Position(str(path)))
        for path, command in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'#!/bin/sh\n{MARK}\nexec {_brew()} {command} "$@"\n', encoding="utf-8")
            path.chmod(0o755)
    except OSError as e:
        raise BrewError(f"cannot be written: {e.strerror}", Position(str(e.filename or build))) from None
    print(f"{build}: {len(PROGRAMS)} programs, as {', '.join(Path(place).name for place in PROGRAMS)}")
    return 0


def _brew() -> str:
    """How a shell calls this brew: by the command beside this Python, or through the Python itself."""
    script = Path(sys.executable).with_name("brew")
    return shlex.quote(str(script)) if script.is_file() else f"{shlex.quote(sys.executable)} -m brew"
