"""brew convert_xc and brew data: both formats become databases; repairs are counted, errors name file and line."""
from __future__ import annotations

import gzip
import math
import re
from pathlib import Path

import numpy as np
import pytest

import brew
from brew.engine.errors import BrewError, DataError
from brew.layers.database import open_database
from brew.layers.label_frequencies import read_label_frequencies
from brew.proto import parse, pb
from brew.tools import convert_xc as module
from brew.tools.cli import main
from brew.tools.convert_xc import Range, RowReader, Rows

RNG = np.random.default_rng(0)
Row = tuple[list[int], dict[int, float]]                 # labels, {feature: value}

XC = "4 10 5\n1,3 0:1 4:0.25 9:-2e-3\n 2:1\n0 5:.5 7:+3\n4 1:1e2\n"
ROWS: list[Row] = [([1, 3], {0: 1, 4: 0.25, 9: -0.002}), ([], {2: 1}), ([0], {5: 0.5, 7: 3}), ([4], {1: 100})]
LIBSVM = "1,3 1:1 5:0.25 10:-2e-3\n3:1\n0 6:.5 8:+3\n4 2:1e2\n"


def read(folder: str) -> list[Row]:
    """The rows of a database, as the layer reads them."""
    size = open_database(folder).size
    text = f"""layer {{ name: "d" type: "SparseData" top: "v" top: "i" top: "l"
                        sparse_data_param {{ source: "{folder}" batch_size: {size} }} }}"""
    net = brew.Net(parse(text, pb.NetParameter()), brew.TEST)
    net.forward()
    v, i, l = (net.blobs[name].data for name in "vil")
    assert (v[i == -1] == 0).all()
    return [([int(x) for x in labels if x >= 0], {int(k): float(x) for k, x in zip(index, values) if k >= 0})
            for labels, index, values in zip(l, i, v)]


def rounded(rows: list[Row]) -> list[Row]:
    return [(labels, {f: float(np.float32(v)) for f, v in found.items()}) for labels, found in rows]


def convert(text: str | bytes, *flags: str, name: str = "a.txt", folder: str = "db") -> list[Row]:
    data = text if isinstance(text, bytes) else text.encode()
    Path(name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    assert main(["convert_xc", name, folder, *flags]) == 0
    return read(folder)


def refused(text: str | bytes, *flags: str, name: str = "a.txt", **options: object) -> str:
    """The message for a file that must be refused."""
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as e:
        list(RowReader(name, *flags, **options))  # type: ignore[arg-type]
    return str(e.value)


# ----------------------------------------------------------------------------------------------------------- formats

WAYS = {"xc": XC, "libsvm": LIBSVM, "crlf": XC.replace("\n", "\r\n"), "no end": XC[:-1], "bom": "\ufeff" + XC,
        "tabs": XC.replace(" ", "\t"), "comment": LIBSVM.replace("3:1", " 3:1  # no labels")}


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
@pytest.mark.parametrize("text", WAYS.values(), ids=WAYS)
def test_both_formats_hold_the_same_rows(text: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(text, name=name) == rounded(ROWS)
    assert Path("db/label_frequencies.txt").read_text() == "4 10 5\n1\n1\n0\n1\n1\n"
    said = capsys.readouterr().out
    assert said.startswith("db: 4 examples, 10 features (1.8 an example), 5 labels (1.0 an example)\n")
    assert "repaired" not in said
    assert ("in the file, features count from 1 and labels from 0" in said) == ("10:" in text)


@pytest.mark.parametrize("base, labels, features", [("none", 0, 0), ("labels", 1, 0), ("features", 0, 1), ("both", 1,
                                                                                                           1)])
@pytest.mark.parametrize("header", ["4 10 5\n", ""])
def test_both_may_count_from_one(base: str, labels: int, features: int, header: str) -> None:
    lines = [",".join(str(v + labels) for v in ls) + " " + " ".join(f"{f + features}:{v}" for f, v in fs.items()) + "\n"
             for ls, fs in ROWS]
    assert convert(header + "".join(lines), "--one_based", base) == rounded(ROWS)
    assert read_label_frequencies("db/label_frequencies.txt")[1].tolist() == [1, 1, 0, 1, 1]


def test_sizes_can_be_given_to_a_file_without_a_header() -> None:
    assert convert(LIBSVM, "-features", "20", "-labels", "7") == rounded(ROWS)
    assert Path("db/label_frequencies.txt").read_text() == "4 20 7\n1\n1\n0\n1\n1\n0\n0\n"
    message = "a.txt:1: a feature must lie between 1 and 9; found '10:-2e-3'\n  -one_based none counts features from 0"
    assert refused(LIBSVM, features=9).startswith(message)
    assert refused(XC, features=9) == "a.txt:1: the first line promises 10 features, -features says 9"


@pytest.mark.parametrize("block", [1, 2, 7, 64, 1 << 22])
def test_blocks_of_any_size_give_the_same(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(sorted(RNG.choice(30, int(RNG.integers(0, 5)), replace=False).tolist()),
             {int(f): float(RNG.normal()) for f in np.sort(RNG.choice(99, 5, replace=False))}) for _ in range(40)]
    lines = [",".join(map(str, labels)) + "".join(f" {f}:{v!r}" for f, v in found.items()) for labels, found in rows]
    text = "\n".join(["40 99 30", *lines, ""])
    monkeypatch.setattr(module, "BLOCK", block)
    assert convert(text) == rounded(rows)
    message = "a.txt:2: labels are whole numbers, separated by commas; found 'x'"
    assert refused(text.replace("\n", "\nx 1:1\n", 30)) == message
    assert refused(text + "3 4\n").startswith("a.txt:42: a feature is INDEX:VALUE")


def test_numbers_are_read_as_python_reads_them() -> None:
    words = ["0", "-0", "1", "1.", ".1", "+.5", "1e3", "1E-3", "-1e+3", "0.1", "123456789012345", "1234567890123456",
             "0.30000001192092896", "16777217", "3.4028234663852886e38",
             "1e-45", "1e-50", "1e-400", "-1e-999", f"0.{'0' * 400}1", f"-.{'0' * 340}7e3", "0e999", "-0.0e-999",
             "0.000000000000000000001", "00012.5000", "1.17549435e-38"]
    words += [f"{v:.{d}g}" for v in RNG.normal(size=60) for d in (3, 9, 17)]
    found = convert("0 " + " ".join(f"{i + 1}:{w}" for i, w in enumerate(words)))[0][1]
    assert list(found.values()) == [float(np.float32(float(w))) for w in words]


def test_records_are_as_documented() -> None:
    convert(XC)
    records = open_database("db").read(np.arange(4), True)
    assert records[0] == [b"00000000", b"00000001", b"00000002", b"00000003"]
    parts = [b"BXC\1", *(np.array(v, "<i4").tobytes() for v in (2, 3, [1, 3], [0, 4, 9])),
             np.array([1, 0.25, -0.002], "<f4").tobytes()]
    assert records[1][0] == b"".join(parts)


# ----------------------------------------------------------------------------------------------------------- repairs

@pytest.mark.parametrize("text, rows, count, what", [
    ("2 9 5\n1 2:1\n\n3 4:1\n \t\n", [([1], {2: 1}), ([3], {4: 1})], 2, "blank lines dropped"),
    ("4 9 5\n1 2:1\n\n3 4:1\n \t\n", [([1], {2: 1}), ([3], {4: 1})], 2, "blank lines dropped"),
    ("2 9 5\n1 7:1 2:3 4:5\n2 1:1\n", [([1], {2: 3, 4: 5, 7: 1}), ([2], {1: 1})], 1, "rows sorted by feature"),
    ("1 9 5\n4,1,4,1,1 2:1\n", [([1, 4], {2: 1})], 3, "repeated labels dropped"),
    ("1 9 5\n1 2:1 3:4 3:0.5 3:2\n", [([1], {2: 1, 3: 6.5})], 2, "repeated features added up")])
def test_what_is_always_repaired_is_counted(text: str, rows: list[Row], count: int, what: str,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    assert convert(text) == rows
    said = capsys.readouterr().out
    assert f"  repaired: {count} {what}\n" in said and said.count("repaired") == 1


RANGE = "a.txt:2: a {} must lie between {}"
FAULTS = [
    ("1 9 5\n1,5,2 2:1\n", RANGE.format("label", "0 and 4; found '5'\n  -one_based labels counts labels from 1; "),
     [([1, 2], {2: 1})], "1 labels out of range dropped"),
    ("1 9 5\n-1 2:1\n", RANGE.format("label", "0 and 4; found '-1'"), [([], {2: 1})], "1 labels out of range dropped"),
    ("1 9 5\n1 2:1 9:1 99999999999999999999:1\n",
     RANGE.format("feature", "0 and 8; found '9:1'\n  -one_based features counts features from 1; -repair drops such"),
     [([1], {2: 1})], "2 features out of range dropped"),
    ("1 1:2\n1 0:3\n",
     RANGE.format("feature", "1 and 2147483647; found '0:3'\n  -one_based none counts features from 0; -repair drops"),
     [([1], {0: 2}), ([1], {})], "1 features out of range dropped"),
    ("1 9 5\n1 2:1 3:nan 4:-inf\n", "a.txt:2: a value must be finite; found '3:nan'\n  -repair drops such values",
     [([1], {2: 1})], "2 non-finite values dropped"),
    ("1 9 5\n1 3:1e39 4:1e999 5:2\n", "a.txt:2: a value must be finite; found '3:1e39'", [([1], {5: 2})],
     "2 non-finite values dropped"),
    ("1 9 5\n1 3:3e38 3:3e38 5:2\n", "a.txt:2: a value must be finite; found '1 3:3e38 3:3e38 5:2'",
     [([1], {3: 0, 5: 2})], "1 non-finite values dropped"),
    ("3 9 5\n1 2:1\n0 3:1\n",
     "a.txt:1: the first line promises 3 examples; 2 follow\n  -repair takes the examples that there are",
     [([1], {2: 1}), ([0], {3: 1})], "1 examples more or fewer than the first line promises"),
    ("1 9 5\n1 2:1\n0 3:1\n", "a.txt:1: the first line promises 1 examples; 2 follow",
     [([1], {2: 1}), ([0], {3: 1})], "1 examples more or fewer than the first line promises")]


@pytest.mark.parametrize("text, message, rows, what", FAULTS, ids=[f[0][:25] for f in FAULTS])
def test_what_is_repaired_on_request_is_an_error_before(text: str, message: str, rows: list[Row], what: str,
                                                        capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(text).startswith(message)
    Path("a.txt").write_text(text)
    assert main(["convert_xc", "a.txt", "db"]) == 1 and not list(Path().glob("*db*")) and not list(Path().glob(".db*"))
    capsys.readouterr()
    assert convert(text, "-repair") == rows
    assert f"  repaired: {what}\n" in capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------------ errors

EMPTY, PROMISE = "1: there are no examples in this file", "1: the first line promises "
LABELS, FEATURE = "2: labels are whole numbers, separated by commas; found ", "2: a feature is INDEX:VALUE"
WRONG = {
    "": EMPTY, "\n\n": EMPTY, "3 4 5\n": EMPTY, "3 4 5": EMPTY,
    "1 9 5\nx 2:1\n": LABELS + "'x'", "1 9 5\n1, 2:1\n": LABELS + "''",
    "1 9 5\n1.5 2:1\n": LABELS, "1 9 5\n1,,2 2:1\n": LABELS,
    "1 9 5\n1 2\n": FEATURE + ", a whole number and a decimal number; found '2'",
    **{f"1 9 5\n1 {word}\n": FEATURE for word in (
        "2: 3", ":2", "a:2", "2:3:4", "2:0x10", "2:1e", "2:+-1", "2:1_0", "2:-", "2:.", "1.0:2", "2:1\0", "2:\u0663")},
    "1 9 5\n 1 2:1\n": FEATURE, "1 qid:3 2:1\n": "1: a feature is", "1 9 5 7\n1 2:1\n": "1: a feature is",
    "1 0 5\n1 2:1\n": PROMISE + "0 features and 5 labels", "1 9 0\n1 2:1\n": PROMISE + "9 features and 0 labels",
    "1 9 999999999999\n1 2:1\n": PROMISE + "9 features and 999999999999 labels",
    f"1 {'9' * 30} 5\n1 2:1\n": PROMISE + "more than there can be",
    "999999999 1:1\n": "1: a label must lie between 0 and 134217727; found '999999999'",
    "-1 9 5\n1 2:1\n": "1: a label must lie between"}


@pytest.mark.parametrize("text", WRONG, ids=repr)
def test_what_is_no_row_is_named_by_file_and_line(text: str) -> None:
    message = WRONG[text]
    assert refused(text).startswith("a.txt:" + message)
    if "must lie" not in message:
        assert refused(text, repair=True).startswith("a.txt:" + message)      # nothing that is no row is repaired


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: z[:40], lambda z: z[:40] + b"\xff\xff" + z[42:],
                                    lambda z: z + b"more", lambda z: z[:2]])
def test_a_damaged_gzip_file_is_named(damage) -> None:  # type: ignore[no-untyped-def]
    whole = gzip.compress("".join(f"{i} {i + 1}:0.{RNG.integers(1000)}\n" for i in range(40)).encode())
    message = refused(damage(whole), name="a.gz")
    assert re.match(r"a.gz:\d+: this gzip file is damaged or cut off: ", message)
    Path("whole.gz").write_bytes(whole)
    assert len(next(iter(RowReader("whole.gz")))) == 40


def test_a_line_without_an_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST", 100)
    monkeypatch.setattr(module, "BLOCK", 10)
    assert refused("1 1:1\n" + "2 " + "3:1 " * 99) == "a.txt:2: this line is longer than 0 MiB"


def test_files_that_are_not_there_and_devices_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for name, why in (("none.txt", "No such file or directory"), (".", "Is a directory"), ("/dev/zero", "Is a device")):
        assert main(["convert_xc", name, "db"]) == 1
        assert capsys.readouterr().err.startswith(f"brew: {name}: cannot read this file of examples: {why}")


def test_a_database_that_is_there_stays(capsys: pytest.CaptureFixture[str]) -> None:
    convert(XC)
    before = Path("db/data.mdb").read_bytes()
    assert main(["convert_xc", "a.txt", "db"]) == 1 and "there is something here already" in capsys.readouterr().err
    assert Path("db/data.mdb").read_bytes() == before


def test_parts_of_rows() -> None:
    Path("a.txt").write_text(XC)
    rows, = RowReader("a.txt")
    for first in range(-1, 6):
        for last in range(-1, 6):
            part = rows.part(first, last)
            expected = ROWS[max(first, 0):max(last, 0)]
            assert part.label_counts.tolist() == [len(labels) for labels, _ in expected]
            assert part.labels.tolist() == [v for labels, _ in expected for v in labels]
            assert part.feature_counts.tolist() == [len(f) for _, f in expected]
            assert part.index.tolist() == [v for _, f in expected for v in f] and len(part.values) == len(part.index)


@pytest.mark.parametrize("block", [1, 40, 1 << 22])
def test_a_part_of_a_file_is_converted_with_the_sizes_of_all(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    Path("a.txt").write_text(XC)
    for part, (first, last) in {"all": (0, 9), "head": (0, 2), "middle": (1, 3), "tail": (3, 9)}.items():
        module.convert(RowReader("a.txt"), part, Range(first, last))
        assert read(part) == rounded(ROWS[first:last])
        assert Path(part, "label_frequencies.txt").read_text().startswith(f"{len(ROWS[first:last])} 10 5\n")


# -------------------------------------------------------------------------------------------------------------- fuzz

PIECES = [b"", b" ", b"\n", b":", b",", b"#", b"\r", b"\0", b"-", b"+", b".", b"e", b"nan", b"inf", b"1e999", b"9" * 25,
          b"0", b"7:", b",3", b"\xff", b"\xef\xbb\xbf", b"4 10 5\n", b"1:1 1:1", b"3e38 ", b"#x\n"]


def mutated(data: bytes) -> bytes:
    for _ in range(int(RNG.integers(1, 5))):
        first, last = sorted(RNG.integers(0, len(data) + 1, 2).tolist())
        kind = RNG.integers(4)
        if kind == 0:                                       # something else in the place of a few bytes
            end = min(first + int(RNG.integers(3)), len(data))
            data = data[:first] + PIECES[RNG.integers(len(PIECES))] + data[end:]
        elif kind == 1 and data:                            # another byte
            data = data[:first] + bytes([RNG.integers(256)]) + data[first + 1:]
        elif kind == 2:                                     # a part twice
            data = data[:last] + data[first:last] + data[last:]
        elif last - first < 9:                              # a part less
            data = data[:first] + data[last:]
    return data


def sound(rows: Rows, reader: RowReader) -> bool:
    """Whether what was read may be packed: each row rising, in range and finite."""
    ends, label_ends = np.cumsum(rows.feature_counts), np.cumsum(rows.label_counts)
    parts = [*np.split(rows.index, ends[:-1]), *np.split(rows.labels, label_ends[:-1])]
    rising = all((np.diff(part) > 0).all() for part in parts)
    both = (rows.index, reader.features), (rows.labels, reader.labels)
    within = all(not len(a) or 0 <= a.min() and a.max() < most for a, most in both)
    return bool(rising and within and np.isfinite(rows.values).all() and ends[-1:].tolist() == [len(rows.index)]
                and len(rows.values) == len(rows.index))


@pytest.mark.parametrize("packed", [False, True], ids=["text", "gzip"])
@pytest.mark.parametrize("text", [XC, LIBSVM], ids=["xc", "libsvm"])
def test_mutated_files_convert_or_raise_an_error_with_file_and_line(text: str, packed: bool,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = {True: 0, False: 0}
    for i in range(800):
        data = gzip.compress(text.encode(), mtime=0) if packed and i % 2 else text.encode()
        data = mutated(data)
        Path("a").write_bytes(gzip.compress(data, 1) if packed and not i % 2 else data)
        monkeypatch.setattr(module, "BLOCK", int(RNG.choice([3, 20, 1 << 22])))
        reader = RowReader("a", str(RNG.choice(["", "none", "labels", "features", "both"])),
                           repair=bool(RNG.integers(2)))
        try:
            blocks = list(reader)
            assert all(sound(rows, reader) for rows in blocks if len(rows))
            assert sum(map(len, blocks)) == reader.examples > 0
            outcomes[True] += 1
            if not i % 50:
                folder = f"db{i}"
                module.convert(RowReader("a", reader.one_based, repair=True), folder)
                assert len(read(folder)) == reader.examples
        except BrewError as e:
            assert isinstance(e, DataError) and re.match(r"a:\d+: [a-z]", str(e)) and e.position is not None
            assert e.position.line > 0, str(e)
            outcomes[False] += 1
    assert min(outcomes.values()) > 50                      # both happen


def test_one_file_written_in_many_ways_holds_the_same_rows() -> None:
    """Order, signs, blanks and blocks do not matter; the naive reader below says what should come out."""
    for k in range(30):
        lines = []
        for _ in range(int(RNG.integers(1, 9))):
            labels = RNG.integers(0, 6, int(RNG.integers(0, 4)))
            found = RNG.integers(0, 12, int(RNG.integers(0, 6)))
            words = [f"{' ' * int(RNG.integers(2))}{f}:{RNG.integers(-40, 40) / 8}" for f in [*found, 0]]
            lines.append(" ".join([",".join(map(str, labels)), *words]))
        assert convert(f"{len(lines)} 12 6\n" + "\n".join(lines), folder=f"db{k}") == [naive(line) for line in lines]


def naive(line: str) -> Row:
    labels, _, features = line.partition(" ")
    sums: dict[int, float] = {}
    for word in features.split():
        index, value = word.split(":")
        sums[int(index)] = sums.get(int(index), 0) + float(value)
    return sorted({int(v) for v in labels.split(",") if v}), {k: sums[k] for k in sorted(sums)}


# --------------------------------------------------------------------------------------------------------- brew data

SIZES = {"bibtex": (4880, 2515, 1836, 159), "corel5k": (4500, 500, 499, 374), "delicious": (12920, 3185, 500, 983),
         "enron": (1123, 579, 1001, 53),
         "rcv1": (3000, 3000, 47236, 101), "tmc2007": (21519, 7077, 500, 22), "yeast": (1500, 917, 103, 14)}


@pytest.mark.oracle
@pytest.mark.parametrize("name", SIZES)
def test_the_real_sets_are_whole(name: str, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, test, features, labels = SIZES[name]
    for _ in range(2):                                      # the second time they are there
        assert main(["data", name, "--from", str(shared / "data" / "xc")]) == 0
    assert "is there already" in capsys.readouterr().out
    names = (shared / "data" / "xc").glob(f"{name}*_labels.txt")
    assert [len(path.read_text().split()) for path in names] == [labels]
    for part, examples in (("train", train), ("test", test)):
        folder = f"data/{name}/{name}_{part}_lmdb"
        found, counts = read_label_frequencies(f"{folder}/label_frequencies.txt")
        head = Path(folder, "label_frequencies.txt").read_text().split("\n")[0]
        assert (head, found, len(counts)) == (f"{examples} {features} {labels}", examples, labels)
        assert open_database(folder).size == examples
        rows = read(folder)
        if (name, part) == ("rcv1", "test"):                # that half of the file numbers labels one lower
            rows = [([label - 1 for label in ls], found) for ls, found in rows]
            counts = np.append(counts[1:], 0)
        assert np.array_equal(np.bincount([v for ls, _ in rows for v in ls], minlength=labels), counts)
        source = next((shared / "data" / "xc").glob(f"{name}*_{part}.txt.gz"),
                      shared / "data" / "xc" / "rcv1sub1_all.txt.gz")
        lines = gzip.decompress(source.read_bytes()).decode().split("\n")[1:-1]
        assert rows == rounded([naive(line) for line in (lines[-examples:] if part == "test" else lines[:examples])])


@pytest.mark.parametrize("fault", [True, False])
def test_labels_that_are_numbered_lower_in_the_test_half_are_raised(fault: bool, capsys: pytest.CaptureFixture[str]) -> None:
    labels = [min(int(x), 99) for x in RNG.permutation(100)[np.minimum(RNG.geometric(0.1, 6000), 100) - 1]]
    lower = [label - (fault and i >= 3000) for i, label in enumerate(labels)]
    lines = [f"{label if label >= 0 else ''} {i % 50}:1" for i, label in enumerate(lower)]
    Path("rcv1sub1_all.txt").write_text("6000 50 101\n" + "\n".join(lines) + "\n")
    assert main(["data", "rcv1", "--from", "."]) == 0
    assert ("numbers them one lower" in capsys.readouterr().out) == fault
    for part, found in (("train", labels[:3000]), ("test", labels[3000:])):
        assert [row for row, _ in read(f"data/rcv1/rcv1_{part}_lmdb")] == [[v] if v or part == "train" or not fault else [] for v in found]


@pytest.mark.parametrize("args, message", [
    (["bibtex"], "no address is known that has these files in this format: -from names their folder, -url an address"),
    (["bibtex", "--from", "."], ".: there is no bibtex_train.txt.gz in this folder"),
    (["bibtex", "--labels", "7"], "-labels is only for xc-synthetic, not for bibtex"),
    (["xc-synthetic", "--from", "."], "xc-synthetic is generated: -from and -url are for other sets"),
    (["xc-synthetic", "--labels", "0"], "-labels must lie between 1 and 134217728, found 0"),
    (["xc-synthetic", "--nonzeros", "17", "--features", "16"], "-nonzeros must lie between 1 and 16, found 17"),
    (["xc-synthetic", "--power", "-1"], "-power must lie between 0 and 10, found -1"),
    (["xc-synthetic", "--seed", "-1"], "-seed is a whole number from 0 on, found -1")])
def test_what_cannot_be_made_is_an_error(args: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", *args]) == 1
    assert capsys.readouterr().err == f"brew: {message}\n" and not list(Path().iterdir())


SMALL = ["--labels", "150", "--features", "400", "--examples", "9000", "--test", "500", "--nonzeros", "30",
         "--labels-per-example", "3"]


def test_synthetic_data_have_the_requested_size_and_are_the_same_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "xc-synthetic", "a", *SMALL]) == 0
    rows = read("a/xc_synthetic_train_lmdb")
    each = [len(f) for _, f in rows]
    assert len(rows) == 9000 and len(read("a/xc_synthetic_test_lmdb")) == 500
    assert min(len(labels) for labels, _ in rows) == 1 and max(len(labels) for labels, _ in rows) <= 5
    assert 25 < np.mean(each) < 31 and min(each) < 20 and 2.4 < np.mean([len(labels) for labels, _ in rows]) < 3.1
    assert all(math.isclose(sum(v * v for v in f.values()), 1.08, abs_tol=0.5) for _, f in rows if len(f) > 9)
    _, counts = read_label_frequencies("a/xc_synthetic_train_lmdb/label_frequencies.txt")
    ordered = np.sort(counts)[::-1]
    assert ordered[:15].sum() > 5 * ordered[-75:].sum() / 5 and ordered[0] > 5 * ordered[75]
    assert (counts > 0).mean() > 0.95
    assert main(["data", "xc-synthetic", "a", *SMALL]) == 0 and "is there already" in capsys.readouterr().out
    assert main(["data", "xc-synthetic", "a", *SMALL, "--seed", "2"]) == 1
    assert "was made with -labels 150" in capsys.readouterr().err
    for folder, more, same in (("b", [], True), ("c", ["--seed", "2"], False)):
        assert main(["data", "xc-synthetic", folder, *SMALL, *more]) == 0
        assert (read(f"{folder}/xc_synthetic_train_lmdb") == rows) == same
    assert main(["data", "xc-synthetic", "d", *SMALL, "--examples", "8192"]) == 0
    assert read("d/xc_synthetic_train_lmdb") == rows[:8192]               # no part depends on another's size


def test_labels_have_features_that_tell_them() -> None:
    """Each label by its log-odds of features (naive Bayes) on the training part finds labels of the test part."""
    main(["data", "xc-synthetic", "a", *SMALL])
    seen, presence = np.full((150, 400), 0.5), np.full(150, 1.0)
    everywhere = np.full(400, 0.5)
    for labels, found in read("a/xc_synthetic_train_lmdb"):
        everywhere[list(found)] += 1
        for label in labels:
            seen[label, list(found)] += 1
            presence[label] += 1
    gain = np.log(seen / presence[:, None]) - np.log(everywhere / 9000)
    test = read("a/xc_synthetic_test_lmdb")
    hits = [int(np.argmax(gain[:, list(found)].sum(1) + 0.1 * np.log(presence))) in labels for labels, found in test]
    popular = int(np.argmax(presence))
    assert np.mean(hits) > 0.6 > 3 * np.mean([popular in labels for labels, _ in test])
