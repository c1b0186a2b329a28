"""What the steps of first_run.py share."""
from __future__ import annotations

from typing import Any

import brew
from brew.engine import context as devices


def check(what: str, holds: bool, more: str = "") -> bool:
    """Print whether a check holds; returns it."""
    print(f"{'ok  ' if holds else 'FAIL'} {what}{'  ' + more if more else ''}", flush=True)
    return holds


def gpu() -> Any:
    """Build nets on the first GPU from now on; returns brew's device."""
    brew.set_mode_gpu()
    return devices.default()
