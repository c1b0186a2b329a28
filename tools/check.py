"""brew check: everything that is wrong with a net or solver, in one go and without running it."""
from __future__ import annotations

import argparse
import sys
from collections.abc import Collection, Sequence
from typing import Any

from ..engine.blob import Blob
from ..engine.errors import BrewError, DataError, NetError, Position, PrototxtError, SolverError, fail
from ..engine.context import current, dry_run
from ..engine.layer import Layer, layer_class
from ..engine.passes import check_connections, filter_layers, insert_splits, left_out, merged_state, plan_backward
from ..engine.rewrites import check_rewrites, find_rewrites
from ..proto import brew_pb2 as pb
from ..proto import find_file, upgrade_net, upgrade_solver
from ..proto.text import locate, parse_file
from ..solvers import SOLVERS, lr_policy
from .mistakes import is_loss, mistakes, warning


PHASES: dict[str, tuple[pb.Phase, ...]] = {"TRAIN": (pb.TRAIN,), "TEST": (pb.TEST,), "BOTH": (pb.TRAIN, pb.TEST)}


def check(args: argparse.Namespace) -> int:
    """Print every problem of the net or solver; exit code 1 if there is one."""
    if bool(args.model) == bool(args.solver):
        raise NetError("brew check needs either -model or -solver")
    states = [pb.NetState(phase=phase) for phase in PHASES.get(args.phase, ())]
    problems, notes = (check_solver(args.solver, args.python) if args.solver
                       else check_net_file(args.model, states, args.python))
    for text in [*problems, *notes]:
        print(text, file=sys.stderr if text in problems else sys.stdout)
    what = args.solver or args.model
    print(f"{what}: {len(problems)} problem{'' if len(problems) == 1 else 's'}" if problems else f"{what}: no problem found")
    return 1 if problems else 0


def check_solver(file: str, python: bool = False) -> tuple[list[str], list[str]]:
    """(problems, notes) of a solver and of its nets. python: import the modules of Python layers, which runs them."""
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
        more, said = check_net_file(find_file(name, file), [train, *tests], python)
        problems += more
        notes += said
    return list(dict.fromkeys(problems)), list(dict.fromkeys(notes))


def check_net_file(file: str, states: Sequence[pb.NetState] = (), python: bool = False) -> tuple[list[str], list[str]]:
    """(problems, notes) of a net in these states, else in those phases in which it has data."""
    errors: list[PrototxtError] = []
    try:
        net = upgrade_net(parse_file(file, pb.NetParameter(), errors), file)
    except BrewError as e:
        return [*map(str, errors), str(e)], []
    problems, notes = [str(e) for e in errors], []
    for state in states or [pb.NetState(phase=phase) for phase in _phases(net)]:
        more, said = _check_state(net, state, python, {_layer_of(e, net) for e in errors})
        problems += more
        notes += said
    return list(dict.fromkeys(problems)), list(dict.fromkeys(notes))


def _phases(net: pb.NetParameter) -> Sequence[pb.Phase]:
    """The phases that a net is meant for: TEST if it reads no data and has no loss, otherwise those in which it has data."""
    def begins(phase: pb.Phase) -> bool:
        param = pb.NetParameter()
        param.CopyFrom(net)
        param.state.phase = phase
        try:
            return any(not layer.bottom for layer in filter_layers(param).layer)
        except BrewError:
            return True
    if all((layer.bottom or layer.type == "Input") and not is_loss(layer) for layer in net.layer):
        return PHASES["TEST"]
    return [phase for phase in PHASES["BOTH"] if begins(phase)] or PHASES["BOTH"]


def _layer_of(error: PrototxtError, net: pb.NetParameter) -> str:
    """The name of the layer in whose text this error lies, or ""."""
    line = error.position.line if error.position else 0
    before = [layer for layer in net.layer if layer.position.line <= line and layer.position.line]
    return before[-1].name if before else ""


def _check_state(net: pb.NetParameter, state: pb.NetState, python: bool, misread: Collection[str]
                 ) -> tuple[list[str], list[str]]:
    """(problems, notes) in one state. What is wrong in the text of the layers `misread` was said already."""
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
        elsewhere = left_out(param)
        param = filter_layers(param)
    except BrewError as e:
        return [str(e)], []
    notes += mistakes(param, state.phase)
    broken = check_connections(param, elsewhere)
    for layer, message, field, _ in broken:
        collect(lambda layer=layer, message=message, field=field: fail(layer, message, field))
    if not broken:
        with_splits: list[pb.NetParameter] = []
        collect(lambda: with_splits.append(insert_splits(param)))
        param = with_splits[0] if with_splits else param
    unknown = {name: "" for *_, name in broken}                # blob of unknown shape -> its Python layer, or ""
    unchecked: dict[str, list[str]] = {}                       # Python layer -> layers that depend on it
    blobs: dict[str, Blob] = {}
    built: list[tuple[Layer, list[Blob], list[Blob]]] = []
    with dry_run(python):
        for layer in param.layer:
            known = layer.name not in misread and collect(lambda layer=layer: _check_type(layer))
            source = next((unknown[b] for b in layer.bottom if b in unknown), None)
            if known and not current().imports and layer_class(layer).user_code:
                unchecked[layer.name] = []
                source = layer.name
            elif source and layer.type != "Split":
                unchecked[source].append(layer.name)
            if not known or source is not None:
                unknown.update(dict.fromkeys(layer.top, source or ""))
            elif not collect(lambda layer=layer: built.append(_set_up(layer, blobs))) and not _assume(layer, blobs):
                unknown.update(dict.fromkeys(layer.top, ""))
    collect(lambda: check_rewrites(*zip(*built)) if built else None)
    if state.phase == pb.TRAIN and not problems and built:
        notes += _overwritten(built, net.force_backward)
    notes += [_unchecked(layer, unchecked[layer.name]) for layer in param.layer if layer.name in unchecked]
    return problems, notes


def _check_type(param: pb.LayerParameter) -> None:
    """Check what can be checked without the shapes of the bottoms. Raises NetError."""
    layer = layer_class(param)(param, param.phase)
    layer.check_counts(len(param.bottom), len(param.top) or int(layer.is_loss))


def _unchecked(param: pb.LayerParameter, dependent: list[str]) -> str:
    """The note about a Python layer that was not imported."""
    place, p = locate(param), param.python_param
    return (f'{f"{place}: " if place else ""}note: layer "{param.name}" (type "{param.type}") is not imported: '
            + (f"the shapes of its tops ({', '.join(param.top)}) are unknown" if param.top else "it is not checked")
            + (f"\n  layers that depend on them are not checked: {', '.join(dependent)}" if dependent else "")
            + f'\n  -python imports its module, "{p.module}", which runs it')


def _assume(param: pb.LayerParameter, blobs: dict[str, Blob]) -> bool:
    """Give the tops of a layer whose data are not here the shapes that it crops to, if it does; whether it could."""
    crop = param.transform_param.crop_size
    batch = next((getattr(param, name).batch_size for name in ("data_param", "image_data_param", "window_data_param") if param.HasField(name)), 0)
    if param.bottom or not crop or not batch:
        return False
    shapes = [(batch, 1 if param.transform_param.force_gray else 3, crop, crop), (batch,)]
    blobs.update((name, Blob(shape)) for name, shape in zip(param.top, shapes))
    return True


def _overwritten(built: list[tuple[Layer, list[Blob], list[Blob]]], force: bool) -> list[str]:
    """Warnings about layers in place that overwrite what an earlier layer's gradient is computed from."""
    numbers: dict[int, int] = {}
    layers, bottoms, tops = (list(column) for column in zip(*built))
    ins, outs = ([[numbers.setdefault(id(blob), len(numbers)) for blob in blobs] for blobs in side] for side in (bottoms, tops))
    runs, _ = plan_backward(layers, ins, outs, len(numbers), force)
    return [warning(layers[r.by].param, f'overwrites in place what the gradient of layer "{layers[r.reader].name}" is computed from\n'
                    "  brew keeps a copy; the gradient that Caffe computes here is wrong, so results will differ from Caffe's", "top")
            for r in find_rewrites(layers, bottoms, tops, runs)]


def _set_up(param: pb.LayerParameter, blobs: dict[str, Blob]) -> tuple[Layer, list[Blob], list[Blob]]:
    """Give a layer's tops their shapes; returns (the layer, its bottoms, its tops). Raises what is wrong with it."""
    layer: Layer = layer_class(param)(param, param.phase)
    bottom = [blobs[name] for name in param.bottom]
    top = [blobs[name] if i < len(param.bottom) and param.bottom[i] == name else Blob() for i, name in enumerate(param.top)]
    if layer.is_loss and not top:
        top = [Blob()]
    try:
        layer.setup(bottom, top)
        layer.reshape(bottom, top)
    except (BrewError, MemoryError):
        raise
    except Exception as e:
        layer.require(not layer.user_code, f"its class raises {type(e).__name__}: {e}")
        raise
    layer.require(len(param.param) <= len(layer.blobs), f"has {len(layer.blobs)} parameters and {len(param.param)} param specifications", "param")
    layer.set_loss_weights(top)
    layer.param_specs = [*layer.param.param, *(pb.ParamSpec() for _ in layer.blobs[len(layer.param.param):])]
    blobs.update(zip(param.top, top))
    return layer, bottom, top
