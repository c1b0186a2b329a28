"""brew data: the standard files in, Caffe's databases out; and what happens when something is wrong with the files."""
from __future__ import annotations

import gzip
import hashlib
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import lmdb
import numpy as np
import pytest

from brew.engine.errors import DataError
from brew.proto import pb, read_binary, to_array
from brew.tools.datasets import SETS, DataSet, _cifar, _idx_files, _idx_pair, build

RNG = np.random.default_rng(0)
PARTS = {"train": (20, 0), "test": (5, 20)}


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


IMAGES, LABELS = RNG.integers(0, 256, (25, 6, 6), np.uint8), RNG.integers(0, 10, 25).astype(np.uint8)
CONTENTS = [idx(IMAGES[:20]), idx(LABELS[:20]), idx(IMAGES[20:]), idx(LABELS[20:])]
SMALL = DataSet(_idx_pair, "{:08d}", files=_idx_files("", *(hashlib.md5(c).hexdigest() for c in CONTENTS)))


def standard_files(folder: str = "files") -> Path:
    Path(folder).mkdir()
    for name, content in zip(SMALL.files, CONTENTS):
        (Path(folder) / name).write_bytes(gzip.compress(content))
    return Path(folder)


def records(folder: str) -> list[tuple[bytes, pb.Datum]]:
    with lmdb.open(str(Path(folder).resolve()), readonly=True, lock=False) as env, env.begin() as txn:
        return [(bytes(k), pb.Datum.FromString(v)) for k, v in txn.cursor()]


def test_idx_files_become_caffes_databases() -> None:
    assert build("small", "out", str(standard_files()), spec=SMALL) == 0
    for part, (count, first) in PARTS.items():
        found = records(f"out/small_{part}_lmdb")
        assert [k for k, _ in found] == [f"{i:08d}".encode() for i in range(count)]
        for i, (_, datum) in enumerate(found):
            assert (datum.channels, datum.height, datum.width, datum.label, datum.encoded) == (1, 6, 6, LABELS[first + i], False)
            assert datum.data == IMAGES[first + i].tobytes()
    mean = read_binary("out/mean.binaryproto", pb.BlobProto(), "mean file")
    np.testing.assert_allclose(to_array(mean)[0, 0], IMAGES[:20].mean(0), rtol=1e-6)
    assert (mean.num, mean.channels, mean.height, mean.width) == (1, 1, 6, 6)


def test_what_is_there_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(standard_files())
    build("small", "out", folder, spec=SMALL)
    before = Path("out/small_train_lmdb/data.mdb").stat().st_mtime_ns
    build("small", "out", folder, spec=SMALL)
    assert "is there already" in capsys.readouterr().out and Path("out/small_train_lmdb/data.mdb").stat().st_mtime_ns == before


def test_cifar_batches_and_jpeg_packs_are_both_read() -> None:
    import cv2
    spec = DataSet(_cifar, "{:05d}", files={"data_batch_1.bin": "", "test_batch.bin": ""})
    Path("bin").mkdir(), Path("jpeg").mkdir()
    images, labels = np.repeat(RNG.integers(0, 256, (4, 3, 1, 1), np.uint8), 32, 2).repeat(32, 3), np.arange(4, dtype=np.uint8)
    rows = b"".join(bytes([label]) + image.tobytes() for label, image in zip(labels, images))
    packs = b""
    for label, image in zip(labels, images):
        jpeg = cv2.imencode(".jpg", image[::-1].transpose(1, 2, 0), [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
        packs += struct.pack("<BH", label, len(jpeg)) + jpeg
    for name in spec.files:
        Path("bin", name).write_bytes(rows)
        Path("jpeg", name.replace(".bin", ".jpegs.gz")).write_bytes(gzip.compress(packs))
    for source in ("bin", "jpeg"):
        build("small", f"out-{source}", source, spec=spec)
        found = records(f"out-{source}/small_train_lmdb")
        assert [k for k, _ in found] == [f"{i:05d}".encode() for i in range(4)] and [d.label for _, d in found] == [0, 1, 2, 3]
        got = np.stack([np.frombuffer(d.data, np.uint8).reshape(3, 32, 32) for _, d in found])
        assert np.abs(got.astype(int) - images).max() <= (0 if source == "bin" else 3)


def damage(what: str, folder: Path) -> None:
    images, labels = (folder / n for n in list(SMALL.files)[:2])
    if what == "missing":
        labels.unlink()
    elif what == "cut":
        images.write_bytes(images.read_bytes()[:-20])
    elif what == "changed":
        labels.write_bytes(gzip.compress(idx(LABELS[:20] ^ 1)))
    elif what == "no idx":
        images.write_bytes(gzip.compress(b"something else"))


@pytest.mark.parametrize("what, message", [
    ("missing", "files: there is no train-labels-idx1-ubyte.gz in this folder"), ("cut", "train-images-idx3-ubyte.gz: this gzip file is damaged or cut off"),
    ("changed", "train-labels-idx1-ubyte.gz: its contents have the MD5"), ("no idx", "train-images-idx3-ubyte.gz: its contents have the MD5")])
def test_bad_files_are_refused_and_nothing_is_left(what: str, message: str) -> None:
    folder = standard_files()
    damage(what, folder)
    with pytest.raises(DataError) as e:
        build("small", "out", str(folder), spec=SMALL)
    assert str(e.value).startswith(message) and not list(Path().glob("out/*"))


def test_a_full_disk_is_an_error_and_nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = standard_files()
    with monkeypatch.context() as m:
        m.setattr("brew.tools.datasets.free_space", lambda _: 1000)
        with pytest.raises(DataError, match="out: the database needs 0 MiB, and 0 MiB are free"):
            build("small", "out", str(folder), spec=SMALL)

    def full(*_: object, **__: object) -> None:
        raise lmdb.DiskError("mdb_txn_commit: No space left on device")
    monkeypatch.setattr("brew.tools.database.lmdb.open", full)
    with pytest.raises(DataError, match="out/small_train_lmdb: the database cannot be written after 0 records: the disk is full"):
        build("small", "out", str(folder), spec=SMALL)
    assert not [p for p in Path("out").rglob("*") if p.name != "out"]


# ------------------------------------------------------------------------------------------------------- downloads

class Files(BaseHTTPRequestHandler):
    """Serves ./files with ranges; breaks off the first answer for each file after 60 bytes if told to."""

    breaks: set[str] = set()
    asked: list[tuple[str, str]] = []

    def do_GET(self) -> None:
        path = Path("files") / self.path.strip("/")
        if not path.is_file():
            return self.send_error(404)
        data, given = path.read_bytes(), self.headers.get("Range", "")
        self.asked.append((path.name, given))
        start = int(given[6:-1]) if given else 0
        self.send_response(206 if given else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if path.name in self.breaks:
            self.breaks.remove(path.name)
            self.wfile.write(data[start:start + 60])
        else:
            self.wfile.write(data[start:])

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Files) as http:
        Files.breaks, Files.asked = set(), []
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}/"
        http.shutdown()


def test_files_are_downloaded(server: str) -> None:
    standard_files()
    assert build("small", "out", url=server, spec=SMALL) == 0
    assert len(records("out/small_test_lmdb")) == 5


def test_a_download_that_broke_off_goes_on(server: str) -> None:
    standard_files()
    Files.breaks = {"train-images-idx3-ubyte.gz"}
    with pytest.raises(DataError, match="cannot download it: .*\n  calling brew data again goes on from the 60 bytes that arrived"):
        build("small", "out", url=server, spec=SMALL)
    assert not list(Path("out").glob("*lmdb*"))
    assert build("small", "out", url=server, spec=SMALL) == 0
    assert ("train-images-idx3-ubyte.gz", "bytes=60-") in Files.asked


def test_a_file_that_is_not_there_is_an_error(server: str) -> None:
    Path("files").mkdir()
    with pytest.raises(DataError, match="train-images-idx3-ubyte.gz: cannot download it"):
        build("small", "out", url=server, spec=SMALL)


def test_a_wrong_archive_is_refused(server: str) -> None:
    standard_files()
    Path("files/a.zip").write_bytes(b"not what was published")
    spec = DataSet(_idx_pair, "{:08d}", archive="a.zip", archive_md5="0" * 32, files=SMALL.files)
    with pytest.raises(DataError, match="what was downloaded has the MD5 .*; it should be 0000"):
        build("small", "out", url=server, spec=spec)
    assert not list(Path("out").rglob("a.zip*"))


def test_members_of_an_archive_are_found(server: str) -> None:
    import zipfile
    folder = standard_files()
    with zipfile.ZipFile("files/a.zip", "w") as z:
        for name in SMALL.files:
            z.write(folder / name, f"gzip/{name}")
    spec = DataSet(_idx_pair, "{:08d}", archive="a.zip", archive_md5=hashlib.md5(Path("files/a.zip").read_bytes()).hexdigest(), files=SMALL.files)
    assert build("small", "out", url=server, spec=spec) == 0


# ------------------------------------------------------------------------------------------------- the real files

@pytest.mark.oracle
@pytest.mark.parametrize("name, train, test, shape, classes", [("mnist", 60000, 10000, (1, 28, 28), 10), ("fashion-mnist", 60000, 10000, (1, 28, 28), 10),
                                                              ("emnist-letters", 124800, 20800, (1, 28, 28), 26), ("cifar10", 50000, 10000, (3, 32, 32), 10)])
def test_the_real_files_are_whole(name: str, train: int, test: int, shape: tuple[int, ...], classes: int, shared: Path) -> None:
    from brew.tools.datasets import _from_folder
    spec = SETS[name]
    for part, count in ((True, train), (False, test)):
        images, labels = spec.read(spec, lambda file: _from_folder(shared / "data" / name, file), part)
        assert images.shape == (count, *shape) and set(np.unique(labels)) == set(range(classes))


# ------------------------------------------------------------------------------------------------- pairs and sequences

def test_pairs_are_two_images_and_whether_they_are_of_one_class() -> None:
    import dataclasses

    from brew.tools.datasets import _pairs
    build("small", "out", str(standard_files()), spec=dataclasses.replace(SMALL, read=_pairs))
    number = {image.tobytes(): i for i, image in enumerate(IMAGES[:20])}
    found = records("out/small_train_lmdb")
    seconds = []
    for i, (_, datum) in enumerate(found):
        first, second = number[datum.data[:36]], number[datum.data[36:]]
        assert (datum.channels, first, datum.label) == (2, i, int(LABELS[first] == LABELS[second]))
        seconds.append(second)
    assert sorted(seconds) == list(range(20)) and seconds != list(range(20))


def test_a_text_becomes_streams_of_characters() -> None:
    import h5py

    from brew.tools.sequences import STEPS, STREAMS, build_sequences
    Path("files").mkdir()
    text = "".join(chr(97 + i) for i in RNG.integers(0, 20, 60000))
    Path("files/input.txt").write_text(text)
    assert build_sequences("tinyshakespeare", "out", "files") == 0
    characters = Path("out/characters.txt").read_text()
    assert characters == "".join(sorted(set(text)))
    with h5py.File("out/train.h5") as file:
        chars, after, cont = (file[name][...].astype(int) for name in ("chars", "next", "cont"))
    rows = len(chars)
    assert chars.shape[1] == STREAMS and rows % STEPS == 0 and rows == 54000 // STREAMS // STEPS * STEPS
    for stream in (0, 5, STREAMS - 1):
        assert "".join(characters[c] for c in chars[:, stream]) == text[stream * rows:(stream + 1) * rows]
        assert "".join(characters[c] for c in after[:, stream]) == text[stream * rows + 1:(stream + 1) * rows + 1]
    assert not cont[0].any() and cont[1:].all()
    assert Path("out/train.txt").read_text() == "train.h5\n"


@pytest.mark.parametrize("name, files, line, words", [
    ("tinyshakespeare-words", ["input.txt"], "Don't {0}, {1}!\n", ["don't", "{0}", ",", "{1}", "!", "<eos>"]),
    ("ptb-words", ["ptb.valid.txt", "ptb.test.txt"], " it 's {0} <unk> {1} N \n", ["it", "'s", "{0}", "<unk>", "{1}", "N", "<eos>"])])
def test_a_text_becomes_streams_of_words(name: str, files: list[str], line: str, words: list[str]) -> None:
    import h5py

    from brew.tools.sequences import STEPS, STREAMS, build_sequences
    Path("files").mkdir()
    drawn = [(f"w{a}", f"w{b}") for a, b in RNG.geometric(0.01, (8000, 2))]
    lines, per = [line.format(*pair) for pair in drawn], len(drawn) // len(files)
    for i, file in enumerate(files):
        (Path("files") / file).write_text("".join(lines[i * per:(i + 1) * per]))
    assert build_sequences(name, "out", "files") == 0
    text = [word.format(*pair) for pair in drawn for word in words]
    cut = len(text) * 9 // 10
    counts = {word: text[:cut].count(word) for word in set(text)}
    vocabulary = Path("out/words.txt").read_text().split("\n")[:-1]
    assert vocabulary[0] == "<unk>" and set(vocabulary[1:]) == {w for w in counts if counts[w] > 1 and w != "<unk>"}
    known = [counts[w] for w in vocabulary[1:]]
    assert known == sorted(known, reverse=True) and len(vocabulary) < len(counts)
    for part, its in (("train", text[:cut]), ("test", text[cut:])):
        with h5py.File(f"out/{part}.h5") as file:
            numbers, after, cont = (file[key][...].astype(int) for key in ("words", "next", "cont"))
        rows = len(numbers)
        assert rows == (len(its) - 1) // STREAMS // STEPS * STEPS and not cont[0].any() and cont[1:].all()
        expected = [w if w in vocabulary else "<unk>" for w in its]
        for stream in (0, 7, STREAMS - 1):
            assert [vocabulary[n] for n in numbers[:, stream]] == expected[stream * rows:(stream + 1) * rows]
            assert [vocabulary[n] for n in after[:, stream]] == expected[stream * rows + 1:(stream + 1) * rows + 1]


def test_a_table_of_speeds_becomes_windows() -> None:
    import h5py

    from brew.tools.sequences import AHEAD, PAST, build_sequences
    Path("files").mkdir()
    table = RNG.uniform(10, 70, (200, 3)).round(2)
    table[40, 1] = 0                                           # a reading that is missing
    Path("files/los_speed.csv").write_text("\n".join(["a,b,c", *(",".join(map(str, row)) for row in table)]))
    build_sequences("los-speed", "out", "files")
    table[40, 1] = table[39, 1]
    table /= table[:160].max()
    with h5py.File("out/test.h5") as file:
        past, future, cont = (file[name][...] for name in ("past", "future", "cont"))
    assert len(past) == 40 - PAST - AHEAD + 1 and not cont[:, 0].any() and cont[:, 1:].all()
    np.testing.assert_allclose(past[3], table[163:163 + PAST], rtol=1e-6)
    np.testing.assert_allclose(future[3], table[163 + PAST:163 + PAST + AHEAD], rtol=1e-6)
    with h5py.File("out/train.h5") as file:
        np.testing.assert_allclose(file["past"][35, 5, 1], table[39, 1], rtol=1e-6)


@pytest.mark.parametrize("name, content, says", [("tinyshakespeare", "short", "the text is too short"), ("los-speed", "a,b\n1,x", "the table of speeds cannot be read"),
                                                 ("los-speed", "a,b\n1,2", "the table is too short")])
def test_what_is_wrong_with_a_sequence_is_named(name: str, content: str, says: str) -> None:
    from brew.tools.sequences import SEQUENCES, build_sequences
    Path("files").mkdir()
    (Path("files") / SEQUENCES[name].files[0][0]).write_text(content)
    with pytest.raises(DataError, match=says):
        build_sequences(name, "out", "files")
    with pytest.raises(DataError, match="there is no "):
        build_sequences(name, "out", "nowhere")
    if name == "los-speed":
        with pytest.raises(DataError, match="name its folder with --from"):
            build_sequences(name, "out")
