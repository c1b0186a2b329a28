"""brew check: everything that is wrong with a net or solver, in one go and without running it."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from ..engine.blob import Blob
from ..engine.errors import BrewError, DataError, NetError, Position, PrototxtError, SolverError, fail
from ..engine.layer import Layer, dry_run, layer_class
from ..engine.passes import check_connections, filter_layers, insert_splits, merged_state
from ..proto import brew_pb2 as pb
from ..proto import find_file, upgrade_net, upgrade_solver
from ..proto.text import parse_file
from ..solvers import SOLVERS, lr_policy
from .mistakes import mistakes


def check(args: argparse.Namespace) -> int:
    """Print every problem of the net or solver; exit code 1 if there is one."""
    if bool(args.model) == bool(args.solver):
        raise NetError("brew check needs either -model or -solver")
    problems, notes = check_solver(args.solver) if args.solver else check_net_file(args.model)
    for text in [*problems, *notes]:
        print(text, file=sys.stderr if text in problems else sys.stdout)
    what = args.solver or args.model
    print(f"{what}: {len(problems)} problem{'' if len(problems) == 1 else 's'}" if problems else f"{what}: no problem found")
    return 1 if problems else 0


def check_solver(file: str) -> tuple[list[str], list[str]]:
    """(problems, notes) of a solver and of the nets it names."""
    errors: list[PrototxtError] = []
    try:
        param = upgrade_solver(parse_file(file, pb.SolverParameter(), errors), file)
    except BrewError as e:
        return [str(e)], []
    problems, notes = [str(e) for e in errors], []
    if param.type not in SOLVERS:
        problems.append(str(SolverError(f'no solver is called "{param.type}"; there are {", ".join(sorted(SOLVERS))}', Position(file))))
    try:
        lr_policy.check(param, file)
    except BrewError as e:
        problems.append(str(e))
    names = [getattr(param, n) for n in ("net", "train_net") if param.HasField(n)] + list(param.test_net)
    given = [n for n in ("net", "net_param", "train_net", "train_net_param") if param.HasField(n)]
    if len(given) != 1:
        problems.append(str(SolverError(f"exactly one of net, net_param, train_net and train_net_param says what to train; found {', '.join(given) or 'none'}", Position(file))))
    if param.test_iter and param.test_interval <= 0:
        problems.append(str(SolverError("test_interval must be more than 0 where there is test_iter", Position(file))))
    tests = [pb.NetState(phase=pb.TEST, stage=state.stage, level=state.level) for state in param.test_state] or [pb.NetState(phase=pb.TEST)]
    train = pb.NetState(phase=pb.TRAIN, stage=param.train_state.stage, level=param.train_state.level)
    for name in dict.fromkeys(names):
        more, said = check_net_file(find_file(name, file), [train, *tests])
        problems += more
        notes += said
    return list(dict.fromkeys(problems)), list(dict.fromkeys(notes))


def check_net_file(file: str, states: Sequence[pb.NetState] = ()) -> tuple[list[str], list[str]]:
    """(problems, notes) of a net, in these states or else in both phases."""
    errors: list[PrototxtError] = []
    try:
        net = upgrade_net(parse_file(file, pb.NetParameter(), errors), file)
    except BrewError as e:
        return [*map(str, errors), str(e)], []
    problems, notes = [str(e) for e in errors], []
    for state in states or [pb.NetState(phase=pb.TRAIN), pb.NetState(phase=pb.TEST)]:
        more, said = _check_state(net, state)
        problems += more
        notes += said
    return list(dict.fromkeys(problems)), list(dict.fromkeys(notes))


def _check_state(net: pb.NetParameter, state: pb.NetState) -> tuple[list[str], list[str]]:
    param = pb.NetParameter()
    param.CopyFrom(net)
    param.state.CopyFrom(merged_state(net.state, state))
    problems: list[str] = []
    notes: list[str] = []

    def collect(work: Any) -> bool:
        try:
            work()
            return True
        except DataError as e:
            notes.append(f"note: {e}")
        except BrewError as e:
            problems.append(str(e))
        except MemoryError:
            problems.append("a blob is larger than the memory")
        return False

    try:
        param = filter_layers(param)
    except BrewError as e:
        return [str(e)], []
    notes += mistakes(param, state.phase)
    broken = check_connections(param)
    for layer, message, field, _ in broken:
        collect(lambda layer=layer, message=message, field=field: fail(layer, message, field))
    if not broken:
        param = insert_splits(param)
    unknown = {name for *_, name in broken}                    # blobs whose shape nobody knows: not checked further
    blobs: dict[str, Blob] = {}
    with dry_run():
        for layer in param.layer:
            if not collect(lambda layer=layer: layer_class(layer)) or any(b in unknown for b in layer.bottom):
                unknown.update(layer.top)
                continue
            if not collect(lambda layer=layer: _set_up(layer, blobs)) and not _assume(layer, blobs):
                unknown.update(layer.top)
    return problems, notes


def _assume(param: pb.LayerParameter, blobs: dict[str, Blob]) -> bool:
    """Give the tops of a layer whose data are not here the shapes that it crops to, if it does; whether it could."""
    crop = param.transform_param.crop_size
    batch = next((getattr(param, name).batch_size for name in ("data_param", "image_data_param", "window_data_param") if param.HasField(name)), 0)
    if param.bottom or not crop or not batch:
        return False
    shapes = [(batch, 1 if param.transform_param.force_gray else 3, crop, crop), (batch,)]
    blobs.update((name, Blob(shape)) for name, shape in zip(param.top, shapes))
    return True


def _set_up(param: pb.LayerParameter, blobs: dict[str, Blob]) -> None:
    """Give a layer's tops their shapes. Raises what is wrong with it."""
    layer: Layer = layer_class(param)(param, param.phase)
    bottom = [blobs[name] for name in param.bottom]
    top = [blobs[name] if i < len(param.bottom) and param.bottom[i] == name else Blob() for i, name in enumerate(param.top)]
    if layer.is_loss and not top:
        top = [Blob()]
    layer.check_counts(len(bottom), len(top))
    layer.setup(bottom, top)
    layer.reshape(bottom, top)
    layer.require(len(param.param) <= len(layer.blobs), f"has {len(layer.blobs)} parameters and {len(param.param)} param specifications", "param")
    blobs.update(zip(param.top, top))
