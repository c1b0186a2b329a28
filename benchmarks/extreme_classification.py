"""The recipes bibtex, delicious, rcv1 and tmc2007 beside what people use for such data: napkinXC and omikuji.

    pip install napkinxc omikuji
    python benchmarks/extreme_classification.py SOURCE WORK [--sets bibtex ...] [--seeds 5] [--held-out] [--only brew ...]

SOURCE has the files that `brew data NAME --from SOURCE` takes; databases and text files are made in WORK. P@1, P@3 and P@5 are of
the test set: the mean over the seeds and its standard error. Times are CPU seconds on one thread: of training, with reading, and of the
predictions for the test set; sizes are of what is saved. napkinXC and omikuji have their defaults. --held-out trains on nine tenths
of the training set and tests on the tenth (every tenth row): the settings in models/ were chosen so.
"""
from __future__ import annotations

import argparse
import gzip
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean, stdev
from time import process_time
from typing import Any

import numpy as np
from train_step import processor

import brew
from brew.proto import pb, read_net
from brew.tools.convert_xc import RowReader, convert
from brew.tools.xc_sets import XC_SETS, build_xc, parts_of

MODELS = Path(__file__).resolve().parents[1] / "models"
KS = (1, 3, 5)
Result = tuple[np.ndarray, float, float, int]            # P@1, P@3, P@5; training seconds, prediction seconds, bytes


def prepare(name: str, source: Path, work: Path, held_out: bool) -> tuple[Path, Path]:
    """The folder whose data/NAME has the databases, and the one with train.txt and test.txt of the same rows."""
    text = work / ("held_out" if held_out else "whole") / "data" / name
    text.mkdir(parents=True, exist_ok=True)
    if not (text / "test.txt").exists():
        extents, parts = text_rows(name, source)
        if held_out:
            train = parts["train"]
            parts = {"train": [r for i, r in enumerate(train) if i % 10 != 9], "test": train[9::10]}
        for part, rows in parts.items():
            (text / f"{part}.txt").write_text(f"{len(rows)} {extents}\n" + "".join(rows))
            convert(RowReader(text / f"{part}.txt"), text / f"{name}_{part}_lmdb")
    return text.parents[1], text


def text_rows(name: str, source: Path) -> tuple[str, dict[str, list[str]]]:
    ...
