"""brew convert_imageset beside the obvious loop: cv2.imread, cv2.resize, a Datum, lmdb's put, on one core.

    python benchmarks/convert.py FOLDER [--pictures 10000] [--rounds 3]

FOLDER holds JPEGs, which are taken again and again until there are enough.
"""
from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Callable
from datetime import date
from itertools import cycle, islice
from pathlib import Path

import cv2
import lmdb
from train_step import measure, processor

import brew
from brew.proto import pb
from brew.tools.cli import main as command_line


def plain_loop(lines: list[tuple[str, int]], folder: Path) -> None:
    cv2.setNumThreads(1)
    with lmdb.open(str(folder), map_size=1 << 40) as env:
        txn = env.begin(write=True)
        for i, (name, label) in enumerate(lines):
            image = cv2.resize(cv2.imread(name), (256, 256))
            datum = pb.Datum(channels=3, height=256, width=256, data=image.transpose(2, 0, 1).tobytes(), label=label)
            txn.put(f"{i:08d}_{name}".encode(), datum.SerializeToString())
            if i % 1000 == 999:
                txn.commit()
                txn = env.begin(write=True)
        txn.commit()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--pictures", type=int, default=10000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    files = sorted(str(p) for p in args.folder.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg"))
    lines = [(name, i % 1000) for i, name in enumerate(islice(cycle(files), args.pictures))]
    with tempfile.TemporaryDirectory() as there:
        target, listed = Path(there) / "db", Path(there) / "list.txt"
        listed.write_text("".join(f"{name} {label}\n" for name, label in lines))

        def fresh(work: Callable[[], object]) -> Callable[[], None]:
            def run() -> None:
                shutil.rmtree(target, ignore_errors=True)
                work()
            return run
        ms = measure({"brew": fresh(lambda: command_line(["convert_imageset", "--resize_width", "256", "--resize_height", "256", "", str(listed), str(target)])),
                      "loop": fresh(lambda: plain_loop(lines, target))}, args.rounds, 1)
    print(f"{processor()}, brew {brew.__version__}, {date.today()}; {args.pictures} JPEGs to 256 x 256, medians of {args.rounds} rounds\n")
    print(f"| brew, images/s | plain loop on one core, images/s | ratio |\n| --- | --- | --- |\n| {1e3 * args.pictures / ms['brew']:.0f} | {1e3 * args.pictures / ms['loop']:.0f} | {ms['loop'] / ms['brew']:.2f} |")


if __name__ == "__main__":
    main()
