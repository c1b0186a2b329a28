"""The errors of the engine, and the one way to raise one about a layer."""
from __future__ import annotations

from typing import Any, NoReturn

from ..proto.errors import (BrewError, DataError, DeviceError, NetError, Position, PrototxtError, ShapeError, SnapshotError,
                            SolverError, WeightsError, check_readable, nearest, read_bytes)
from ..proto.text import locate

__all__ = ["BrewError", "DataError", "DeviceError", "NetError", "Position", "PrototxtError", "ShapeError", "SnapshotError",
           "SolverError", "WeightsError", "check_readable", "fail", "nearest", "read_bytes", "require"]


def fail(param: Any, message: str, field: str = "", error: type[BrewError] = NetError) -> NoReturn:
    """Raise `error` about the layer `param`, at the line of its `field` ("pooling_param.pad") if it has one."""
    raise error(f'layer "{param.name}" (type "{param.type}"): {message}', locate(param, field))


def require(condition: object, param: Any, message: str, field: str = "", error: type[BrewError] = NetError) -> None:
    """fail(...) unless `condition` holds."""
    if not condition:
        fail(param, message, field, error)
