"""brew upgrade_net_proto_text, upgrade_net_proto_binary, upgrade_solver_proto_text: old files in today's form."""
from __future__ import annotations

import argparse

from ..engine.files import write_whole
from ..proto import read_net, read_solver, read_weights, strip_positions, to_text


def upgrade_net_proto_text(args: argparse.Namespace) -> int:
    """A net's prototxt."""
    net = read_net(args.input)
    strip_positions(net)
    return _write(args.output, to_text(net).encode())


def upgrade_net_proto_binary(args: argparse.Namespace) -> int:
    """A caffemodel."""
    net = read_weights(args.input)
    strip_positions(net)
    return _write(args.output, net.SerializeToString())


def upgrade_solver_proto_text(args: argparse.Namespace) -> int:
    """A solver's prototxt."""
    return _write(args.output, to_text(read_solver(args.input)).encode())


def _write(path: str, data: bytes) -> int:
    write_whole(path, data)
    print(f"wrote {path}")
    return 0
