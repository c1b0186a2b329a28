"""brew parse_log: the figures in a training's log as tables."""
from __future__ import annotations

import argparse
import csv
import io
import re
from datetime import datetime, timedelta
from math import isnan, nan
from pathlib import Path
from typing import Any

from ..engine.errors import DataError, Position, read_bytes
from ..engine.files import check_writable, write_whole

STAMP = re.compile(r"^[IWEF](?P<date>\d{4}) (?P<time>\d\d:\d\d:\d\d\.\d+)")
ITERATION = re.compile(r"Iteration (\d+)")
OUTPUT = re.compile(r"(?P<phase>Train|Test) net output #\d+: (?P<name>\S+) = (?P<value>[-+.\w]+)")
RATE = re.compile(r"lr = ([-+.\de]+)")
Row = dict[str, Any]


def parse(path: str) -> tuple[list[Row], list[Row]]:
    """(rows of training, rows of tests) of a log of brew or Caffe: NumIters, Seconds, LearningRate and the net's outputs.

    A log that was cut off, or goes on after another training, gives what it holds. Raises DataError if that is nothing.
    """
    rows: dict[str, dict[tuple[int, int], Row]] = {"Train": {}, "Test": {}}
    start: datetime | None = None
    seconds, iteration, turn, rate, first_rate, days = 0.0, -1, 0, nan, nan, timedelta()
    last: datetime | None = None
    for line in read_bytes(path, "this log", DataError).decode("utf-8", "replace").splitlines():
        stamp = STAMP.match(line)
        if stamp:
            # no year is written; 2000 has a 29th of February. A year is over where the clock steps back by months.
            now = datetime.strptime("2000" + stamp["date"] + stamp["time"], "%Y%m%d%H:%M:%S.%f") + days
            if last is not None and now < last - timedelta(days=180):
                days += timedelta(days=366)
                now += timedelta(days=366)
            last = now
            start = now if start is None or "Solving" in line and not any(rows.values()) else start
            seconds = (now - start).total_seconds()
        found = ITERATION.search(line)
        if found and ("Testing net" in line or "loss =" in line or "lr =" in line):
            if int(found[1]) < iteration:
                turn += 1                                  # another training in the same file
            iteration = int(found[1])
        learning = RATE.search(line)
        if learning and found:
            rate = float(learning[1])
            first_rate = rate if isnan(first_rate) else first_rate
            for row in rows["Train"].values():             # Caffe writes the rate after the outputs
                if row["NumIters"] == iteration and row["turn"] == turn:
                    row["LearningRate"] = rate
        output = OUTPUT.search(line)
        if output and iteration >= 0:
            row = rows[output["phase"]].setdefault((turn, iteration), {"NumIters": iteration, "turn": turn, "Seconds": seconds, "LearningRate": rate})
            try:
                row.setdefault(output["name"], float(output["value"]))
            except ValueError:
                continue                                   # the line was cut
    for row in (row for phase in rows.values() for row in phase.values()):
        row.pop("turn")
        if isnan(row["LearningRate"]):                     # the first test comes before any rate
            row["LearningRate"] = first_rate
    if not rows["Train"] and not rows["Test"]:
        raise DataError("this log holds no net outputs: is it that of a training?", Position(path))
    return list(rows["Train"].values()), list(rows["Test"].values())


def table(rows: list[Row], delimiter: str) -> bytes:
    """Rows as a table with a head."""
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["NumIters", "Seconds", "LearningRate"]
    text = io.StringIO()
    writer = csv.DictWriter(text, names, delimiter=delimiter, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parse_log(args: argparse.Namespace) -> int:
    """Write OUTPUT_DIR/LOG.train and LOG.test as `brew parse_log` was asked to."""
    if len(args.delimiter) != 1 or args.delimiter in '\r\n"':
        raise DataError(f"--delimiter is one character, found {args.delimiter!r}")
    paths = [Path(args.output_dir) / (Path(args.logfile).name + ending) for ending in (".train", ".test")]
    check_writable(*paths)
    for rows, path in zip(parse(args.logfile), paths):
        write_whole(path, table(rows, args.delimiter))
        print(f"wrote {path}: {len(rows)} rows")
    return 0
