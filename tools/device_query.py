"""brew device_query: what brew can run on here."""
from __future__ import annotations

import argparse
import platform

from ..engine.device import cores
from ..engine.errors import DeviceError
from ..kernels import cpu, onednn


def device_query(args: argparse.Namespace) -> int:
    """Print the CPU and the GPUs (-gpu all, or their numbers with commas between). Raises DeviceError where those asked for are not."""
    wanted = [] if args.gpu in ("", "all") else args.gpu.split(",")
    if not all(number.isdecimal() for number in wanted):
        raise DeviceError(f"-gpu takes all, or the numbers of GPUs with commas between, found {args.gpu!r}")
    print(f"CPU:                           {platform.processor() or platform.machine()}, {cores()} threads")
    print(f"Kernels:                       {cpu.__name__.rpartition('_')[2]}, oneDNN {onednn.version() if onednn else 'not built'}")
    try:
        import cupy
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as e:                                 # CuPy without a driver raises errors of its own
        if args.gpu:
            raise DeviceError(f"there is no GPU to ask: {e}") from None
        print(f"GPU:                           none ({e})")
        return 0
    for number in map(int, wanted) if wanted else range(count):
        if number >= count:
            raise DeviceError(f"there are {count} GPUs, numbered from 0; there is no GPU {number}")
        p = cupy.cuda.runtime.getDeviceProperties(number)
        for name, value in (("Device id", number), ("Major revision number", p["major"]), ("Minor revision number", p["minor"]), ("Name", p["name"].decode()),
                            ("Total global memory", p["totalGlobalMem"]), ("Shared memory per block", p["sharedMemPerBlock"]), ("Registers per block", p["regsPerBlock"]),
                            ("Warp size", p["warpSize"]), ("Threads per block", p["maxThreadsPerBlock"]), ("Clock rate", p.get("clockRate", "unknown")),
                            ("Number of multiprocessors", p["multiProcessorCount"])):
            print(f"{name + ':':<30} {value}")
    return 0
