"""Solvers as values: what `pickle` and `copy` take of one, and a solver made from it. It goes on with the same bits.

Its nets are copied with it (engine/pickling.py); callbacks, watchers and poll stay with the original.
"""
from __future__ import annotations

from copy import deepcopy
from typing import Any, TypeVar

from ..engine import pickling
from ..proto import brew_pb2 as pb
from .iteration import Iteration
from .state import fill, parts

S = TypeVar("S", bound=Iteration)
PLAIN_MEMBERS = ("file", "seed", "prefix", "l1", "iter", "current_step", "losses", "plateau", "stopped", "tested_at",
                 "loss_scale")


def state(solver: Iteration) -> dict[str, Any]:
    """What a copy of the solver needs."""
    def values(array: Any) -> list[Any]:
        return [memory.state() for memory in parts(solver, array)]
    solver.net.context.activate()
    return {
        "param": solver.param.SerializeToString(), "members": {name: getattr(solver, name) for name in PLAIN_MEMBERS},
        "nets": [(type(net), net.__getstate__()) for net in solver.nets],
        "history": [values(array) for array in solver.history],
        "average": None if solver.average is None else values(solver.average),
        "more": pickling.added(solver)}


def revive(solver: Iteration, state: dict[str, Any]) -> None:
    """Make `solver`, an object without members, the solver of this state."""
    solver.param = pb.SolverParameter.FromString(state["param"])
    vars(solver).update(deepcopy(state["members"]), declared_nets=[], declared_weights=[])
    nets = []
    for cls, of in state["nets"]:
        nets.append(cls.__new__(cls))
        nets[-1]._rebuild(of)
    solver._assemble(nets[0], nets[1:])                # the arena takes a new net's layouts, and then the values
    for net, (_, of) in zip(nets, state["nets"]):
        net._set_values(of)
    solver.net.context.activate()
    for array, values in zip(solver.history, state["history"]):
        _fill(solver, array, values)
    if state["average"] is not None:
        solver.average = solver.arena.data.copy()
        _fill(solver, solver.average, state["average"])
    solver.undo.take()
    vars(solver).update(state["more"])


def _fill(solver: Iteration, array: Any, values: list[Any]) -> None:
    kept = [(memory, v) for memory, v in zip(parts(solver, array), values) if v is not None]
    fill([memory for memory, _ in kept], [v for _, v in kept])


def deep_copy(solver: S, given: dict[str, Any], memo: dict[int, Any]) -> S:
    """A copy in the solver's own context; `given` is what its __getstate__ returned."""
    copy: S = type(solver).__new__(type(solver))
    memo[id(solver)] = copy
    nets = [(cls, pickling.apart(of, memo)) for cls, of in given["nets"]]
    with solver.net.context:
        revive(copy, {**given, "nets": nets, "more": deepcopy(given["more"], memo)})
    return copy
