"""Arrays of blobs that the user holds: live views, while the values themselves move between layouts and devices."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Settled:
    """What every call of the user that changes values of these nets runs in: what he wrote to arrays that he holds is
    read before, and they show the results after."""

    __slots__ = ("nets",)                # a class, as a generator would cost each small step some microseconds

    def __init__(self, nets: Sequence[Any]):
        self.nets = nets

    def __enter__(self) -> None:
        settle(self.nets, True)

    def __exit__(self, *_: object) -> None:
        settle(self.nets, False)


def settle(nets: Sequence[Any], entering: bool) -> None:
    """Settle every net, those after one that fails too."""
    for n, net in enumerate(nets, 1):
        try:
            net.run.settle(entering)
        except BaseException:
            settle(nets[n:], entering)
            raise
