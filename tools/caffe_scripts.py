"""brew run: Python scripts that were written for Caffe, as they are. brew install-caffe: `import caffe` for every
Python program of this environment."""
from __future__ import annotations

import argparse
import os
import runpy
import shutil
import sys
import sysconfig
import traceback
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path

from ..engine.errors import Position
from ..proto.errors import BrewError
from .cli import choose_device

SHIPPED = Path(__file__).resolve().parents[1] / "pycaffe" / "as_caffe"          # a folder with a package "caffe"
MARK = "stands_for_brew = True"


def offer_caffe() -> None:
    """Let `import caffe` give brew's where no other caffe can be imported: layers written for Caffe begin with it."""
    if str(SHIPPED) not in sys.path:
        sys.path.append(str(SHIPPED))                                # the last place that is looked at


def run(args: argparse.Namespace) -> int:
    """Run a script, as `python SCRIPT ARGUMENTS` or `python -m MODULE ARGUMENTS`, in which `import caffe` gives brew.
    Returns its exit code. Raises BrewError if it cannot be read."""
    if not args.script or args.script == ["-m"]:
        raise BrewError("brew run needs a script: brew run script.py ARGUMENTS, or brew run -m MODULE ARGUMENTS")
    if args.no_gpu:
        os.environ["BREW_NO_GPU"] = args.no_gpu
    choose_device(args.gpu)
    import_module("..", __package__).install_as_caffe()
    # Processes that the script starts see it, too.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(SHIPPED), os.environ.get("PYTHONPATH"))))
    module = args.script[0] == "-m"
    name, *sys.argv[1:] = args.script[module:]
    sys.argv[0] = name
    if not module and not os.path.isfile(name) and not os.path.isdir(name):
        raise BrewError("there is no such script", Position(name))
    own = 0 if getattr(sys.flags, "safe_path", False) else 1         # the first entry is that of the program, brew
    sys.path[:own] = ["" if module else os.path.dirname(os.path.abspath(name)), str(SHIPPED)]
    try:
        if module:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(name, run_name="__main__")
    except Exception as e:
        kept = e.__traceback__
        while kept is not None and kept.tb_frame.f_code.co_filename.startswith(("<frozen runpy", __file__)):
            kept = kept.tb_next                                      # the script's own part, as python would show it
        traceback.print_exception(type(e), e, kept)
        return 1
    return 0


def install_caffe(args: argparse.Namespace) -> int:
    """Put a package "caffe" that is brew's into the environment of this Python, or remove it. Raises BrewError where
    another caffe is, or nothing may be written."""
    place = Path(sysconfig.get_paths()["purelib"])
    folder = place / "caffe"
    ours = _is_ours(folder)
    try:
        if args.remove:
            if not ours:
                print(f"{folder}: there is no caffe of brew's")
                return 0
            shutil.rmtree(folder)
            print(f"{folder}: removed")
            return 0
        other = PathFinder.find_spec("caffe", [p for p in sys.path if p != str(SHIPPED)])
        found = ""
        if other and other.origin:
            found = next(str(place) for place in other.submodule_search_locations or [other.origin])
        if not ours and (found and not _is_ours(Path(found)) or folder.exists()):
            raise BrewError("another caffe is here already, which brew leaves alone"
                            "\n  brew run SCRIPT lets a script see brew's caffe", Position(found or str(folder)))
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SHIPPED / "caffe" / "__init__.py", folder / "__init__.py")
    except OSError as e:
        raise BrewError(f"cannot be changed: {e.strerror}\n  in a virtual environment of your own it can: python -m venv",
                        Position(str(folder))) from None
    print(f"{folder}: import caffe gives brew\n  brew install-caffe --remove takes it away")
    return 0


def _is_ours(folder: Path) -> bool:
    """Whether this package is what install_caffe made, and nothing besides."""
    try:
        files = {p.name for p in folder.iterdir()} - {"__pycache__"}
        return files == {"__init__.py"} and MARK in (folder / "__init__.py").read_text(encoding="utf-8")
    except OSError:
        return False
