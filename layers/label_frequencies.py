"""How many training examples have each label, as a text file: "examples N labels L", then L counts, one a line."""
from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ..engine.errors import DataError, Position, read_bytes


def read_label_frequencies(path: str | Path) -> tuple[int, np.ndarray]:
    """(examples, the number of examples with each label (L), int64). Raises DataError with file and line.

    Propensity-scored metrics are made of these (Jain, Prabhu and Varma 2016, section 3).
    """
    lines = read_bytes(path, "label frequencies", DataError).decode("latin-1").split("\n")

    def wrong(message: str, line: int) -> DataError:
        return DataError(message, Position(str(path), line))

    head = re.fullmatch(r"examples ([0-9]{1,18}) labels ([0-9]{1,18})", lines[0].strip())
    if head is None:
        raise wrong(f'label frequencies begin with "examples N labels L", found {lines[0].strip()[:60]!r}', 1)
    examples, labels = int(head[1]), int(head[2])
    counts: list[int] = []
    for number, line in enumerate(lines[1:], 2):
        text = line.strip()
        if not text and (len(counts) == labels or number == len(lines)):
            continue
        if len(counts) == labels:
            raise wrong(f"line 1 promises {labels} labels, and there are more", number)
        if not re.fullmatch("[0-9]{1,18}", text) or int(text) > examples:
            raise wrong(f"the count of label {number - 2} must be a whole number from 0 to {examples}, the number of "
                        f"examples; found {text[:60]!r}", number)
        counts.append(int(text))
    if len(counts) < labels:
        raise wrong(f"line 1 promises {labels} labels, and there are {len(counts)}", len(lines))
    return examples, np.array(counts, np.int64)
