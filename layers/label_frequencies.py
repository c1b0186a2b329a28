"""How many examples have each label: the text file beside a database of labels and features."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from ..engine.errors import DataError, Position, read_bytes
from ..engine.files import write_whole

NAME = "label_frequencies.txt"            # in the database's folder, beside data.mdb


def write_label_frequencies(path: str | Path, examples: int, features: int, counts: np.ndarray) -> None:
    """Write "examples features labels" on the first line, then the count of each label. Raises SnapshotError."""
    lines = "\n".join(map(str, counts.tolist()))
    write_whole(path, f"{examples} {features} {len(counts)}\n{lines}\n".encode())


def read_label_frequencies(path: str | Path) -> tuple[int, np.ndarray]:
    """(examples, how many of them have each label, int64 (labels)).

    The first line is the number of examples, or "examples features labels". Raises DataError with the line."""
    lines = read_bytes(path, "these label frequencies", DataError).decode(errors="replace").split("\n")
    if lines and not lines[-1].strip():
        lines.pop()                       # behind the last line's end
    head = lines[0].split() if lines else []
    if len(head) not in (1, 3) or not all(_is_whole(word) for word in head):
        raise DataError('the first line must be the number of examples, or "examples features labels"; found '
                        f'{" ".join(head)[:40]!r}', Position(str(path), 1))
    examples = int(head[0])
    for i, line in enumerate(lines[1:], 2):
        if not _is_whole(line.strip()) or int(line) > examples:
            raise DataError(f"a label's count must lie between 0 and {examples}, the number of examples; found "
                            f"{line.strip()[:40]!r}", Position(str(path), i))
    counts = np.array(lines[1:], np.int64)
    if len(head) == 3 and int(head[2]) != len(counts):
        raise DataError(f"the first line promises {head[2]} labels; {len(counts)} counts follow",
                        Position(str(path), 1))
    return examples, counts


def _is_whole(word: str) -> bool:
    return word.isascii() and word.isdigit() and len(word) < 19
