"""One net runs in one thread at a time. A second thread that asks for it gets an error, rather than results of both
mixed up."""
from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from threading import Lock, get_ident
from typing import Any, NoReturn, TypeVar
from weakref import WeakSet

from .errors import NetError

F = TypeVar("F", bound=Callable[..., Any])


class Use:
    """Which thread uses a net now, if any. It is never waited for; the thread that has it may come again (from hooks,
    callbacks and layers in Python)."""

    def __init__(self, name: str):
        self.name, self.lock, self.owner = name, Lock(), 0
        _uses.add(self)

    def take(self) -> bool:
        """Whether it was free; False: this thread has it already. Raises NetError while another thread has it."""
        me = get_ident()
        if self.owner == me:
            return False
        if not self.lock.acquire(False):
            self.refuse()
        self.owner = me
        return True

    def leave(self) -> None:
        self.owner = 0
        self.lock.release()

    def refuse(self) -> NoReturn:
        raise NetError(f'the net "{self.name}" is in use by another thread\n'
                       "  make a net for each thread; share_with() lets them have the same weights")

    def check(self) -> None:
        """Raise NetError if another thread runs the net now, and is not in code of the user that may have started this
        thread."""
        owner = self.owner
        if owner and owner != get_ident() and owner not in _resting:
            self.refuse()


_uses: WeakSet[Use] = WeakSet()
_resting: dict[int, int] = {}           # by thread: how deep


def alone(net: Any, method: Callable[..., Any], *args: Any) -> Any:
    """method(*args) with the net taken. Raises NetError if another thread has it."""
    taken = net.use.take()
    try:
        return method(*args)
    finally:
        if taken:
            net.use.leave()


def exclusive(method: F) -> F:
    """A method of a net (whose `use` is a Use) that only one thread at a time may be in. Others get NetError."""
    @wraps(method)
    def exclusively(net: Any, *args: Any, **named: Any) -> Any:
        taken = net.use.take()
        try:
            return method(net, *args, **named)
        finally:
            if taken:
                net.use.leave()
    return exclusively                                             # type: ignore[return-value]


def claim(use: Use, blobs: Iterable[Any]) -> None:
    """Let a net's blobs know who uses it: a look at one from another thread changes which of its copies is the
    newest."""
    for blob in blobs:
        blob.users = (use,)


@contextmanager
def using(nets: Sequence[Any]) -> Iterator[None]:
    """Use all of these nets within. Raises NetError if another thread uses one of them."""
    taken: list[Use] = []
    try:
        for net in nets:
            if net.use.take():
                taken.append(net.use)
        yield
    finally:
        for use in taken:
            use.leave()


@contextmanager
def resting() -> Iterator[None]:
    """Around code of the user that the engine calls: threads that it starts may look at blobs, for the net rests
    meanwhile."""
    me = get_ident()
    _resting[me] = _resting.get(me, 0) + 1
    try:
        yield
    finally:
        _resting[me] -= 1
        if not _resting[me]:
            del _resting[me]


def as_user_code(function: F) -> F:
    """A function of the user, to be called by the engine."""
    @wraps(function)
    def called(*args: Any, **named: Any) -> Any:
        with resting():
            return function(*args, **named)
    return called                                                  # type: ignore[return-value]


def _in_child() -> None:
    """In a forked process: nets that other threads of the parent were using are free."""
    for use in _uses:
        if use.owner != get_ident():
            use.lock, use.owner = Lock(), 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
