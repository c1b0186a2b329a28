"""What the machine has, so that a net too large is refused before it is built rather than killed while it runs."""
from __future__ import annotations

from pathlib import Path
from typing import Any

from .errors import fail


def available_memory() -> int | None:
    """Bytes that can be had without swapping, as Linux tells (also that of the control group); None elsewhere."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
        limit, used = (Path(f"/sys/fs/cgroup/memory.{n}").read_text().strip() for n in ("max", "current"))
        if limit != "max":
            found.append(int(limit) - int(used))
    except (OSError, ValueError):
        pass
    return min(found) if found else None


def check_memory(param: Any, need: int, what: str) -> None:
    """Raise NetError about the layer `param` if `need` bytes for `what` are more than there are."""
    have = available_memory() if need > 1 << 28 else None      # looking costs more than small things need
    if have is not None and need > have:
        fail(param, f"{what} needs {need / 2**30:.1f} GiB of memory, and {have / 2**30:.1f} GiB are available"
             "\n  a smaller batch_size, image or num_output needs less; brew summary shows what each layer needs")
