"""brew convert_xc: a database of sparse rows with lists of labels, from the extreme-classification repository's
format or libsvm's.

Both have a line for each example, `l1,l2 f:v f:v ...`: labels, and the features that are not 0. A line without labels
begins with a space or with a feature. Files may be gzipped, lines may end in CR LF, and text after a # is ignored.
- The repository's: the first line is "N D L", the numbers of examples, features and labels. Both count from 0.
- libsvm's: has no such line. Features count from 1, labels from 0. D and L are one more than the largest that occur,
  unless -features and -labels give them.
The first line decides which format it is. -one_based (none, features, labels, both) overrides what counts from 1.

Errors, with file and line: words that are no label or feature; labels and features out of range; values that are not
finite; a number of examples other than the first line promises. -repair drops such labels, features and values, and
takes the examples that there are. Always repaired, and counted: blank lines are dropped (N may include them or not);
features are sorted; values of a feature that occurs twice in a row are added, as scipy does; a label that occurs twice
counts once.

The database is an LMDB with keys of 8 digits. A record is little-endian and packed:
    "BXC", version 1 (a byte); int32 number of labels; int32 number of features;
    int32 labels, rising; int32 indices, rising; float32 values.
Its folder also holds label_frequencies.txt: "N D L", then one number a line, how many examples have each label.
PrecisionAtK reads it.
"""
from __future__ import annotations

import argparse
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ..engine.errors import DataError, Position, check_readable
from ..engine.files import write_whole
from ..kernels import cpu
from ..layers.label_frequencies import NAME, write_label_frequencies
from .database import DatabaseWriter

BLOCK = 1 << 22                           # bytes of text that are read at once
LONGEST = 1 << 26                         # bytes of a line
MOST = 2**31 - 1                          # of features: indices are int32
MOST_LABELS = 1 << 27                     # each is a line of the file of label frequencies
KEYS = 10**8                              # as many as 8 digits can name
REPAIRS = ("blank lines dropped", "rows sorted by feature", "repeated labels dropped",
           "repeated features added up", "labels out of range dropped", "features out of range dropped",
           "non-finite values dropped", "examples more or fewer than the first line promises")


@dataclass
class Rows:
    """Examples one after the other: how many labels and features each has, and these."""

    label_counts: np.ndarray              # int32 (n)
    feature_counts: np.ndarray            # int32 (n)
    labels: np.ndarray                    # int32, rising in each row
    index: np.ndarray                     # int32, rising in each row
    values: np.ndarray                    # float32

    def __len__(self) -> int:
        return len(self.label_counts)

    def part(self, first: int, last: int) -> Rows:
        """The rows first..last-1, as far as there are any."""
        first, last = (min(max(i, 0), len(self)) for i in (first, last))
        labels, features = (np.concatenate([[0], np.cumsum(c, dtype=np.int64)])[[first, max(first, last)]]
                            for c in (self.label_counts, self.feature_counts))
        return Rows(self.label_counts[first:last], self.feature_counts[first:last], self.labels[slice(*labels)],
                    self.index[slice(*features)], self.values[slice(*features)])


class RowReader:
    """Reads a file of either format, block by block; raises DataError with file and line. The arguments are the
    command's flags. `examples`, `features` and `labels` are known after the last block."""

    def __init__(self, path: str | Path, one_based: str = "", labels: int = 0, features: int = 0, repair: bool = False):
        self.path, self.repair = str(path), repair
        if not (0 <= labels <= MOST_LABELS and 0 <= features <= MOST):
            raise DataError(f"there may be {MOST_LABELS} labels and {MOST} features at most, "
                            f"found {labels} and {features}")
        self.labels, self.features, self.one_based = labels, features, one_based
        self.line = 1                     # where the next block begins
        self.examples = 0
        self.promised: int | None = None  # how many examples, by the first line
        self.repairs = dict.fromkeys(REPAIRS, 0)

    def fail(self, line: int, message: str) -> NoReturn:
        raise DataError(message, Position(self.path, line))

    def __iter__(self) -> Iterator[Rows]:
        check_readable(self.path, "this file of examples", DataError)
        highest = [-1, -1]                # label and feature
        for number, block in enumerate(self._blocks()):
            if not number:
                block = self._begin(block)
            yield self._parse(block, highest)
        if not self.examples:
            self.fail(1, "there are no examples in this file")
        self.labels, self.features = self.labels or highest[0] + 1, self.features or highest[1] + 1
        blank = self.repairs[REPAIRS[0]]
        if self.promised is not None and self.promised not in (self.examples, self.examples + blank):
            if not self.repair:
                self.fail(1, f"the first line promises {self.promised} examples; {self.examples} follow"
                          "\n  -repair takes the examples that there are")
            self.repairs[REPAIRS[-1]] += abs(self.promised - self.examples)

    def _blocks(self) -> Iterator[bytes]:
        """Whole lines, about BLOCK bytes of them."""
        rest = b""
        try:
            with open(self.path, "rb") as raw:
                packed = raw.read(2) == b"\x1f\x8b"
                raw.seek(0)
                file: Any = gzip.GzipFile(fileobj=raw) if packed else raw
                while data := file.read(BLOCK):
                    end = data.rfind(b"\n") + 1
                    if not end:
                        rest += data
                        if len(rest) > LONGEST:
                            self.fail(self.line, f"this line is longer than {LONGEST >> 20} MiB")
                        continue
                    yield rest + data[:end]
                    rest = data[end:]
        except (EOFError, zlib.error, OSError) as e:
            disk = isinstance(e, OSError) and not isinstance(e, gzip.BadGzipFile)
            what = "this file cannot be read further" if disk else "this gzip file is damaged or cut off"
            self.fail(self.line, f"{what}: {getattr(e, 'strerror', None) or e}")
        if rest or self.line == 1:
            yield rest

    def _begin(self, block: bytes) -> bytes:
        """What follows the first line, if that is a header."""
        block = block.removeprefix(b"\xef\xbb\xbf")
        first, _, rest = block.partition(b"\n")
        words = first.split()
        if len(words) != 3 or not all(w.isdigit() for w in words):
            self.one_based = self.one_based or "features"
            return block
        if max(map(len, words)) > 18:
            self.fail(1, "the first line promises more than there can be")
        self.promised, features, labels = map(int, words)
        if not (0 < features <= MOST and 0 < labels <= MOST_LABELS):
            self.fail(1, f"the first line promises {features} features and {labels} labels; "
                      f"1 to {MOST} and 1 to {MOST_LABELS} are possible")
        for name, given, promised in (("features", self.features, features), ("labels", self.labels, labels)):
            if given not in (0, promised):
                self.fail(1, f"the first line promises {promised} {name}, -{name} says {given}")
        self.labels, self.features, self.one_based = labels, features, self.one_based or "none"
        self.line = 2
        return rest

    def bases(self) -> tuple[int, int]:
        """What the first label and the first feature are called."""
        return int(self.one_based in ("labels", "both")), int(self.one_based in ("features", "both"))

    def _parse(self, block: bytes, highest: list[int]) -> Rows:
        *arrays, repairs, fault = cpu.parse_rows(block, self.labels or MOST_LABELS, self.features or MOST,
                                                 *self.bases(), self.repair)
        if fault is not None:
            kind, line, begin, end = fault
            self._refuse(kind, self.line + line, block[begin:min(end, begin + 40)].decode(errors="replace"))
        rows = Rows(*arrays)
        for name, count in zip(REPAIRS, repairs):
            self.repairs[name] += count
        for i, found in enumerate((rows.labels, rows.index)):
            highest[i] = max(highest[i], int(found.max()) if len(found) else -1)
        self.examples += len(rows)
        self.line += block.count(b"\n")
        return rows

    def _refuse(self, kind: int, line: int, found: str) -> NoReturn:
        """Raise the error for a fault of parse_rows: kinds as there."""
        if kind == 1:
            self.fail(line, f"labels are whole numbers, separated by commas; found {found!r}")
        if kind == 3:
            self.fail(line, f"a feature is INDEX:VALUE, a whole number and a decimal number; found {found!r}")
        if kind == 5:
            self.fail(line, f"a value must be finite; found {found!r}\n  -repair drops such values")
        what, name = ("label", "labels") if kind == 2 else ("feature", "features")
        base = self.bases()[kind == 4]
        last = base - 1 + ((self.labels or MOST_LABELS) if kind == 2 else (self.features or MOST))
        toggled = {"none": name, name: "none", "both": "features" if name == "labels" else "labels"}
        self.fail(line, f"a {what} must lie between {base} and {last}; found {found!r}\n  -one_based "
                  f"{toggled.get(self.one_based, 'both')} counts {name} from {1 - base}; -repair drops such {name}")


def write_rows(folder: str | Path, blocks: Iterable[Rows], sizes: Callable[[], tuple[int, int]],
               beside: Mapping[str, str] | None = None) -> tuple[int, int, int]:
    """Write a database of these rows, and their label frequencies. Returns the numbers of examples, of their labels and
    of their features. Raises DataError; nothing is left behind then.

    sizes    gives (features, labels), the extents; called after the last block.
    beside   names and texts of further files in its folder."""
    examples = 0
    totals = [0, 0]
    counts = np.zeros(0, np.int64)
    with DatabaseWriter(folder) as database:
        for rows in blocks:
            if examples + len(rows) > KEYS:
                raise DataError(f"a database holds {KEYS} examples at most", Position(str(folder)))
            for record in cpu.pack_rows(rows.label_counts, rows.feature_counts, rows.labels, rows.index,
                                        rows.values):
                database.put(b"%08d" % examples, record)
                examples += 1
            found = np.bincount(rows.labels)
            if len(found) > len(counts):
                counts = np.concatenate([counts, np.zeros(len(found) - len(counts), np.int64)])
            counts[:len(found)] += found
            totals = [totals[0] + len(rows.labels), totals[1] + len(rows.index)]
        features, labels = sizes()
        counts = np.concatenate([counts, np.zeros(labels - len(counts), np.int64)])
        write_label_frequencies(database.aside / NAME, examples, features, counts)
        for name, text in (beside or {}).items():
            write_whole(database.aside / name, text.encode())
    return examples, totals[0], totals[1]


def described(folder: str | Path, features: int, labels: int, examples: int, all_labels: int, all_features: int) -> str:
    """A line about a database: its extents, and what write_rows returned."""
    each = max(examples, 1)
    return (f"{folder}: {examples} examples, {features} features ({all_features / each:.1f} an example), "
            f"{labels} labels ({all_labels / each:.1f} an example)")


@dataclass
class Range:
    """Rows `first` to `last` - 1 of a file, counted from 0."""

    first: int = 0
    last: int = 2**62
    at: int = field(default=0, init=False)

    def of(self, blocks: Iterable[Rows]) -> Iterator[Rows]:
        for rows in blocks:
            yield rows.part(self.first - self.at, self.last - self.at)
            self.at += len(rows)


def convert(reader: RowReader, folder: str | Path, part: Range | None = None) -> None:
    """Make the database; print what it holds and what was repaired."""
    counts = write_rows(folder, (part or Range()).of(reader), lambda: (reader.features, reader.labels))
    print(described(folder, reader.features, reader.labels, *counts))
    if reader.one_based != "none":
        first_label, first_feature = reader.bases()
        print(f"  in the file, features count from {first_feature} and labels from {first_label}")
    for what, count in reader.repairs.items():
        if count:
            print(f"  repaired: {count} {what}")


def convert_xc(args: argparse.Namespace) -> int:
    """Convert as `brew convert_xc` was asked to. Exit code 0."""
    DatabaseWriter.check([args.database])
    convert(RowReader(args.file, args.one_based, args.labels, args.features, args.repair), args.database)
    return 0
