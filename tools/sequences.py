"""brew data for sequences: a text as streams of characters, sensors as windows of time, in HDF5 files."""
from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np

from ..engine.errors import DataError, Position
from ..engine.files import check_folder, write_whole
from .download import download

Arrays = dict[str, np.ndarray]

STREAMS, STEPS = 32, 64              # of text: pieces that are read side by side, and rows that make a batch
PAST, AHEAD = 12, 12                 # of traffic: intervals of 5 minutes that are seen, and that are to be foretold


def text_streams(text: bytes) -> tuple[Arrays, Arrays, str]:
    """(train, test, the characters in the order of their numbers): the last tenth of the text is for testing.

    Each part is cut into STREAMS pieces side by side: row t holds character t of every piece in `chars`, the one after it
    in `next`, and in `cont` whether it follows on the row before. Rows are a multiple of STEPS.
    """
    try:
        decoded = text.decode()
    except UnicodeDecodeError as e:
        raise DataError(f"the text is not UTF-8: {e}") from None
    characters = sorted(set(decoded))
    number = {c: i for i, c in enumerate(characters)}
    codes = np.array([number[c] for c in decoded], np.float32)
    parts = []
    for codes_of in (codes[:len(codes) * 9 // 10], codes[len(codes) * 9 // 10:]):
        rows = (len(codes_of) - 1) // STREAMS // STEPS * STEPS
        if not rows:
            raise DataError(f"the text is too short: {len(text)} characters, and {20 * STREAMS * STEPS} are needed")
        pieces = codes_of[:rows * STREAMS].reshape(STREAMS, rows).T
        after = codes_of[1:rows * STREAMS + 1].reshape(STREAMS, rows).T
        cont = np.ones((rows, STREAMS), np.float32)
        cont[0] = 0
        parts.append({"chars": pieces, "next": after, "cont": cont})
    return parts[0], parts[1], "".join(characters)


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


# name -> (the file it comes from, the folder to download it from)
SEQUENCES = {
    "tinyshakespeare": (("input.txt", "tinyshakespeare.txt"), "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/"),
    "los-speed": (("los_speed.csv", "los_speed.csv.gz"), ""),      # 207 sensors in Los Angeles, a week; Zhao et al. 2020 (T-GCN)
}


def build_sequences(name: str, folder: str = "", source: str = "", url: str = "") -> int:
    """Make FOLDER/train.h5, test.h5 and the lists train.txt and test.txt; returns the exit code 0. Arguments as datasets.build."""
    target = Path(folder or f"data/{name}")
    names, usual = SEQUENCES[name]
    check_folder(target)
    data = _fetch(names, target, source, url or usual)
    if name == "tinyshakespeare":
        train, test, characters = text_streams(data)
        _save(target, train, test)
        write_whole(target / "characters.txt", characters.encode())
        print(f"{target / 'characters.txt'}: the {len(characters)} characters in the order of their numbers")
    else:
        _save(target, *traffic_windows(data))
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


