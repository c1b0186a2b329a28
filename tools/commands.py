"""The commands that are tools of their own in Caffe, with their arguments. Their modules are imported when they run."""
from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any


def truth(text: str) -> bool:
    """The value of a flag as gflags writes it: --gray, --gray=true, --gray=0."""
    values = {"true": True, "t": True, "yes": True, "1": True, "false": False, "f": False, "no": False, "0": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"true or false is needed, found {text!r}")
    return values[text.lower()]


def add_tools(command: Callable[..., argparse.ArgumentParser], flag: Callable[..., None]) -> None:
    """Add them to the command line. `command` makes a parser of a name, help and example; `flag` adds a flag to one."""
    def tool(name: str, where: tuple[str, str], help: str, example: str, **positional: str) -> argparse.ArgumentParser:
        p = command(name, help, example)
        p.set_defaults(tool=where)
        for argument, about in positional.items():
            p.add_argument(argument, help=about)
        return p

    draw = tool("draw_net", ("draw", "draw_net"), "draw a net: shapes, parameters and work of each layer", "brew draw_net models/googlenet/deploy.prototxt googlenet.svg",
                net="the net's prototxt", picture="the file to write: svg, png or pdf")
    flag(draw, "rankdir", default="TB", choices=["LR", "TB"], help="from left to right, or (default) from top to bottom")
    flag(draw, "phase", default="ALL", choices=["TRAIN", "TEST", "ALL"], help="only the layers of this phase")
    flag(draw, "display_lrm", action="store_true", help="show lr_mult and decay_mult")
