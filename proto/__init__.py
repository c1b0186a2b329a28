"""The schema (brew.proto), and reading and writing of nets, solvers and weights. Imports nothing else of brew."""
from __future__ import annotations

from pathlib import Path

from . import brew_pb2 as pb
from .binary import from_array, read_binary, shape_of, to_array, to_half
from .errors import BrewError, Position, PrototxtError, WeightsError
from .text import locate, parse, parse_file, strip_positions, to_text
from .upgrade import settle_forks, upgrade_net, upgrade_solver

__all__ = ["BrewError", "Position", "PrototxtError", "WeightsError", "find_file", "from_array", "locate", "parse", "pb", "read_binary",
           "read_net", "read_solver", "read_weights", "settle_forks", "shape_of", "strip_positions", "to_array", "to_half", "to_text", "upgrade_net", "upgrade_solver"]


def read_net(path: str | Path) -> pb.NetParameter:
    """The net in the prototxt at `path`, upgraded to today's form. Raises PrototxtError."""
    return upgrade_net(parse_file(str(path), pb.NetParameter()), str(path))


def read_solver(path: str | Path) -> pb.SolverParameter:
    """The solver in the prototxt at `path`, upgraded to today's form. Raises PrototxtError."""
    return upgrade_solver(parse_file(str(path), pb.SolverParameter()), str(path))


def read_weights(path: str | Path) -> pb.NetParameter:
    """The layers and blobs in the binary caffemodel at `path`, upgraded to today's form. Raises WeightsError."""
    return upgrade_net(read_binary(path, pb.NetParameter(), "caffemodel"), str(path))


def find_file(name: str, named_in: str = "") -> str:
    """Where a file that the prototxt `named_in` names is: seen from the working directory, else from that prototxt.

    A name that is found nowhere comes back as it is, so that the error names what the user wrote.
    """
    if name and not Path(name).exists() and named_in:
        beside = Path(named_in).parent / name
        if beside.exists():
            return str(beside)
    return name
