"""Layers that read data: what a batch holds, in which order, and what is said when the data are bad."""
from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import lmdb
import numpy as np
import pytest

import brew
from brew.engine.errors import DataError, NetError
from brew.proto import from_array, parse, pb
from brew.tools.cli import main
from brew.tools.database import write_database

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 3, 8, 9), np.uint8)


def database(change: Callable[[int, pb.Datum], None] = lambda i, d: None, folder: str = "db") -> None:
    def records():  # type: ignore[no-untyped-def]
        for i, image in enumerate(IMAGES):
            datum = pb.Datum(channels=3, height=8, width=9, data=image.tobytes(), label=i)
            change(i, datum)
            yield f"{i:08d}".encode(), datum
    write_database(Path(folder), records())


def encoded(i: int, datum: pb.Datum) -> None:
    datum.data, datum.encoded = cv2.imencode(".png", IMAGES[i].transpose(1, 2, 0))[1].tobytes(), True


def net(params: str, phase: int = brew.TRAIN, kind: str = "Data", tops: str = 'top: "data" top: "label"', seed: int = 1) -> brew.Net:
    return brew.Net(parse(f'layer {{ name: "d" type: "{kind}" {tops} {params} }}', pb.NetParameter(), "net.prototxt"), phase, seed=seed)


def batches(n: brew.Net, count: int) -> tuple[np.ndarray, np.ndarray]:
    found = [{k: v.copy() for k, v in n.forward().items()} for _ in range(count)]
    return np.concatenate([f["data"] for f in found]), np.concatenate([f["label"] for f in found])


# ----------------------------------------------------------------------------------------------------------- order

def test_records_come_in_the_order_of_their_keys_again_and_again(device: str) -> None:
    database()
    data, labels = batches(net('data_param { source: "db" batch_size: 4 backend: LMDB }'), 6)
    assert labels.tolist() == [i % 10 for i in range(24)]
    np.testing.assert_array_equal(data, IMAGES[labels.astype(int)])


def test_a_shuffled_epoch_holds_every_record_once_in_a_new_order() -> None:
    database()
    _, labels = batches(net('data_param { source: "db" batch_size: 5 backend: LMDB shuffle: true }'), 4)
    first, second = labels[:10].tolist(), labels[10:].tolist()
    assert sorted(first) == sorted(second) == list(range(10)) and first != second and first != sorted(first)


def test_any_batch_can_be_gone_to() -> None:
    database()
    text = 'transform_param { crop_size: 5 mirror: true } data_param { source: "db" batch_size: 3 backend: LMDB shuffle: true }'
    whole = batches(net(text), 9)[0]
    late = net(text)
    late.layers[0].batches = 6  # type: ignore[attr-defined]
    np.testing.assert_array_equal(batches(late, 3)[0], whole[18:])


def test_encoded_images_give_the_same_as_raw_ones() -> None:
    database(encoded)
    data, labels = batches(net('data_param { source: "db" batch_size: 4 backend: LMDB }'), 3)
    np.testing.assert_array_equal(data, IMAGES[labels.astype(int)])


def test_float_records_are_read() -> None:
    def floats(i: int, datum: pb.Datum) -> None:
        datum.ClearField("data")
        datum.float_data.extend(IMAGES[i].ravel() / 2)
    database(floats)
    np.testing.assert_array_equal(batches(net('data_param { source: "db" batch_size: 10 backend: LMDB }'), 1)[0], IMAGES / 2)


def test_two_nets_read_one_database() -> None:
    database()
    a, b = (net('data_param { source: "db" batch_size: 4 backend: LMDB }') for _ in range(2))
    assert (batches(a, 2)[0] == batches(b, 2)[0]).all()


# ------------------------------------------------------------------------------------------------------- transform

def test_a_test_crop_is_the_middle_with_the_mean_taken_before_mirroring() -> None:
    database()
    mean = RNG.random((3, 8, 9), np.float32)
    Path("mean.binaryproto").write_bytes(from_array(mean[None]).SerializeToString())
    text = 'transform_param { crop_size: 4 mean_file: "mean.binaryproto" scale: 0.5 mirror: MIRROR } data_param { source: "db" batch_size: 10 backend: LMDB }'
    plain, _ = batches(net(text.replace("MIRROR", "false"), brew.TEST), 1)
    expected = ((IMAGES - mean) * 0.5)[:, :, 2:6, 2:6]
    np.testing.assert_allclose(plain, expected, rtol=1e-6)
    mirrored, _ = batches(net(text.replace("MIRROR", "true"), brew.TEST), 1)
    flipped = [bool((m == p[:, :, ::-1]).all()) for m, p in zip(mirrored, plain)]
    assert all(f or (m == p).all() for f, m, p in zip(flipped, mirrored, plain)) and 0 < sum(flipped) < 10


def test_train_crops_go_everywhere() -> None:
    database()
    n = net('transform_param { crop_size: 7 mean_value: 1 mean_value: 2 mean_value: 3 } data_param { source: "db" batch_size: 10 backend: LMDB }')
    data, labels = batches(n, 40)
    seen = set()
    for image, label in zip(data, labels):
        source = IMAGES[int(label)] - np.array([1, 2, 3], np.float32)[:, None, None]
        places = [(h, w) for h in range(2) for w in range(3) if (source[:, h:h + 7, w:w + 7] == image).all()]
        assert places
        seen.add(places[0])
    assert seen == {(h, w) for h in range(2) for w in range(3)}


def test_colour_can_be_forced() -> None:
    database(encoded)
    data, _ = batches(net('transform_param { force_gray: true } data_param { source: "db" batch_size: 2 backend: LMDB }'), 1)
    assert data.shape == (2, 1, 8, 9)


# ------------------------------------------------------------------------------------------------------- bad data

def cut(i: int, datum: pb.Datum) -> None:
    if i == 7:
        datum.data = datum.data[:-5]


def no_image(i: int, datum: pb.Datum) -> None:
    encoded(i, datum)
    if i == 7:
        datum.data = b"no image"


def another_size(i: int, datum: pb.Datum) -> None:
    if i == 7:
        datum.height, datum.width = 9, 8


@pytest.mark.parametrize("change, what", [
    (cut, "its image has the shape (3, 8, 9), and 211 values"), (no_image, "it is encoded, and holds no image that can be decoded"),
    (another_size, "its image has the shape (3, 9, 8), the batch began with (3, 8, 9)")])
def test_a_bad_record_is_named_by_its_key(change: Callable[[int, pb.Datum], None], what: str) -> None:
    database(change)
    with pytest.raises(DataError) as e:
        batches(net('data_param { source: "db" batch_size: 5 backend: LMDB }'), 2)
    assert str(e.value) == f"db: record '00000007' cannot be used: {what}\n  read by layer \"d\""


def test_a_record_that_is_no_datum_is_named() -> None:
    database()
    with lmdb.open(str(Path("db").resolve()), map_size=1 << 20) as env, env.begin(write=True) as txn:
        txn.put(b"00000003", b"\x22\xff\xff")
    with pytest.raises(DataError, match="record '00000003' cannot be used: the record is no whole Datum"):
        batches(net('data_param { source: "db" batch_size: 5 backend: LMDB }'), 1)


@pytest.mark.parametrize("size, message", [(10_000, "db: the database is cut off: data.mdb has 10000 bytes of"), (5000, "db: the database is cut off"), (0, "db: the database")])
def test_a_cut_database_is_refused(size: int, message: str) -> None:
    database()
    path = Path("db/data.mdb")
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(DataError, match=message):
        batches(net('data_param { source: "db" batch_size: 5 backend: LMDB }'), 1)


@pytest.mark.parametrize("params, error, message", [
    ('data_param { source: "nowhere" batch_size: 5 }', DataError, "nowhere: there is no LMDB here (no data.mdb in the folder)"),
    ('data_param { source: "db" }', NetError, "batch_size must be given, and be more than 0"),
    ('transform_param { crop_size: 20 } data_param { source: "db" batch_size: 2 }', DataError, "crop_size 20 is larger than the image, 8 x 9 pixels"),
    ('transform_param { mean_value: 1 mean_value: 2 } data_param { source: "db" batch_size: 2 }', NetError, "mean_value is given once or for each of the 3 channels, found 2"),
    ('transform_param { mean_file: "m" } data_param { source: "db" batch_size: 2 }', brew.BrewError, "m: cannot read this mean file: No such file or directory")])
def test_bad_parameters(params: str, error: type[Exception], message: str) -> None:
    database()
    with pytest.raises(error) as e:
        net(params)
    assert message in str(e.value)


# ----------------------------------------------------------------------------------------------- the other sources

def images(count: int = 6) -> None:
    Path("my images").mkdir()
    lines = []
    for i in range(count):
        cv2.imwrite(f"my images/a {i}.png", IMAGES[i].transpose(1, 2, 0))
        lines.append(f"my images/a {i}.png {i}\n")
    Path("list.txt").write_text("".join(lines))


def test_images_of_a_list(device: str) -> None:
    images()
    data, labels = batches(net('image_data_param { source: "list.txt" batch_size: 4 }', kind="ImageData"), 3)
    assert labels.tolist() == [i % 6 for i in range(12)]
    np.testing.assert_array_equal(data, IMAGES[labels.astype(int)])
    small, _ = batches(net('image_data_param { source: "list.txt" batch_size: 2 new_height: 4 new_width: 5 is_color: false }', kind="ImageData"), 1)
    assert small.shape == (2, 1, 4, 5)


@pytest.mark.parametrize("line, message", [
    ("gone.png 1", "list.txt:7: gone.png does not exist"), ("list.txt 1", "list.txt:7: list.txt is no image that can be read"), ("a.png", "list.txt:7: a path, a space and a label are needed, found 'a.png'")])
def test_a_bad_line_of_a_list_is_named(line: str, message: str) -> None:
    images()
    with open("list.txt", "a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError) as e:
        batches(net('image_data_param { source: "list.txt" batch_size: 7 }', kind="ImageData"), 1)
    assert message in str(e.value)


def test_rows_of_hdf5_files_go_on_across_files() -> None:
    for k, (first, last) in enumerate([(0, 5), (5, 8)]):
        with h5py.File(f"{k}.h5", "w") as file:
            file["data"], file["label"] = np.arange(first, last, dtype=np.float64)[:, None] * np.ones((1, 3)), np.arange(first, last)
    Path("list.txt").write_text("0.h5\n1.h5\n")
    data, labels = batches(net('hdf5_data_param { source: "list.txt" batch_size: 3 }', kind="HDF5Data"), 6)
    assert labels.tolist() == [i % 8 for i in range(18)] and (data == labels[:, None]).all()
    _, shuffled = batches(net('hdf5_data_param { source: "list.txt" batch_size: 4 shuffle: true }', kind="HDF5Data"), 4)
    assert sorted(shuffled[:8]) == sorted(shuffled[8:]) == list(range(8))
    with pytest.raises(DataError, match='0.h5: has no dataset "other", which layer "d" has as a top; it has data, label'):
        net('hdf5_data_param { source: "list.txt" batch_size: 4 }', kind="HDF5Data", tops='top: "other"')


Row = tuple[int, ...]
Rows = tuple[Row, ...]


def hdf5(*rows: tuple[int, ...], name: str = "data") -> str:
    """Write a file for each of these shapes of rows, with four rows, and their list; returns the layer's parameters."""
    for k, shape in enumerate(rows):
        with h5py.File(f"{k}.h5", "w") as file:
            file[name] = 100 * k + np.arange(4 * int(np.prod(shape))).reshape(4, *shape)
            file["label"] = np.arange(4)
    Path("list.txt").write_text("".join(f"{k}.h5\n" for k in range(len(rows))))
    return 'hdf5_data_param { source: "list.txt" batch_size: 3 }'


@pytest.mark.parametrize("rows", [((3,), (1,)), ((3,), (2, 3)), ((2,), (3,)), ((), (2,)), ((3,), (3,), (0,))])
def test_rows_of_other_sizes_are_an_error_that_names_both_files(rows: Rows, capsys: pytest.CaptureFixture[str]) -> None:
    params, last = hdf5(*rows), len(rows) - 1
    message = (f'layer "d" (type "HDF5Data"): the rows of "data" have the shape {rows[0]} in 0.h5, '
               f"and {rows[last]} in {last}.h5")
    with pytest.raises(NetError, match=f"^net.prototxt:1:1: {re.escape(message)}$"):
        net(params, kind="HDF5Data")
    Path("net.prototxt").write_text(f'layer {{ name: "d" type: "HDF5Data" top: "data" top: "label" {params} }}')
    assert main(["check", "-model", "net.prototxt"]) == 1 and f"net.prototxt:1:79: {message}" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [((), (1,)), ((1,), ()), ((6,), (2, 3)), ((2, 3), (3, 2), (6, 1))])
def test_rows_of_the_same_size_take_the_shape_of_the_first_file(rows: Rows) -> None:
    data, labels = batches(net(hdf5(*rows), kind="HDF5Data"), 4)
    size = int(np.prod(rows[0]))
    number = np.arange(12) % (4 * len(rows))
    expected = 100 * (number // 4)[:, None] + number[:, None] % 4 * size + np.arange(size)
    assert data.shape == (12, *rows[0]) and (data.reshape(12, size) == expected).all() and (labels == number % 4).all()


def test_what_is_no_dataset_of_numbers_is_named() -> None:
    params = hdf5((3,))
    text = np.array([b"a"] * 4)
    cases = (text, r'its dataset "data" is not numeric: its type is \|S1'), (None, '"data" is a group, not a dataset')
    for value, message in cases:
        with h5py.File("0.h5", "a") as file:
            del file["data"]
            if value is None:
                file.create_group("data")
            else:
                file["data"] = value
        with pytest.raises(DataError, match=f'^0.h5: {message}\n  read by layer "d"'):
            net(params, kind="HDF5Data")


def test_a_file_that_changes_under_a_training_is_named() -> None:
    built = net(hdf5((3,), (3,)), kind="HDF5Data")
    hdf5((3,), (1,))
    message = "^1.h5: this HDF5 file cannot be read, or has changed since the net was built: cannot reshape"
    with pytest.raises(DataError, match=message):
        batches(built, 3)


def gray_second(i: int, datum: pb.Datum) -> None:
    encoded(i, datum)
    if i == 1:
        datum.data = cv2.imencode(".png", IMAGES[i][0])[1].tobytes()


def boxed(i: int, datum: pb.Datum) -> pb.AnnotatedDatum:
    gray_second(i, datum)
    return pb.AnnotatedDatum(datum=datum)


PADDED = "resize_param { height: 8 width: 8 resize_mode: FIT_LARGE_SIZE_AND_PAD"
COLOURS = "mean_value: [1, 2, 3]"


@pytest.mark.parametrize("kind, params, message", [
    ("Data", "data_param { DATA }", "its image is 8 x 9 x 1, the batch began with 8 x 9 x 3"),
    ("Data", f"data_param {{ DATA }} transform_param {{ {PADDED} }} {COLOURS} }}",
     "its image is 8 x 9 x 1, the batch began with 8 x 9 x 3"),
    ("Data", f"data_param {{ DATA }} transform_param {{ {PADDED} pad_value: [1, 2] }} }}",
     "pad_value is given once or for each of the 3 channels, found 2"),
    ("AnnotatedData", f"data_param {{ BOXED }} transform_param {{ {PADDED} }} {COLOURS} }}",
     "its image has 1 channels, the batch began with 3"),
    ("AnnotatedData", f"data_param {{ BOXED }} transform_param {{ {PADDED} pad_value: [1, 2, 3] }} }}",
     "its image has 1 channels, the batch began with 3"),
    ("ImageData", 'image_data_param { source: "list.txt" batch_size: 2 }',
     "1.png has (8, 8) pixels, the batch began with (8, 9)"),
    ("WindowData", "window_data_param { WINDOWS } transform_param { crop_size: 4 mean_value: [1, 2] }",
     "mean_value is given once or for each of the 3 channels, found 2"),
    ("WindowData", 'window_data_param { WINDOWS } transform_param { crop_size: 4 mean_file: "mean" }',
     "the mean file must have 3 channels, be square and at least as large as crop_size 4, found (1, 5, 5)"),
])
def test_records_that_do_not_go_together_are_an_error_of_brew(kind: str, params: str, message: str) -> None:
    for word, source in (("DATA", "db"), ("BOXED", "boxed"), ("WINDOWS", "w.txt")):
        params = params.replace(word, f'source: "{source}" batch_size: 2' + " fg_fraction: 0" * (word == "WINDOWS"))
    database(gray_second)
    with lmdb.open("boxed", map_size=1 << 20) as env, env.begin(write=True) as txn:
        for i in range(len(IMAGES)):
            txn.put(f"{i:08d}".encode(), boxed(i, pb.Datum(channels=3, height=8, width=9, label=i)).SerializeToString())
    for i, width in enumerate((9, 8)):
        cv2.imwrite(f"{i}.png", np.ascontiguousarray(IMAGES[i].transpose(1, 2, 0)[:, :width]))
    Path("list.txt").write_text("0.png 0\n1.png 1\n")
    Path("w.txt").write_text("# 0\n0.png\n3\n8\n9\n1\n0 0.1 0 0 4 4\n")
    Path("mean").write_bytes(from_array(np.ones((1, 5, 5), np.float32)).SerializeToString())
    with pytest.raises((DataError, NetError), match=re.escape(message)):
        batches(net(params, kind=kind), 1)


MEMORY = "memory_data_param { batch_size: 2 channels: 3 height: 8 width: 9 }"


def test_memory_data_goes_round() -> None:
    n = net(MEMORY, kind="MemoryData")
    with pytest.raises(DataError, match="has no data: call set_input_arrays first"):
        n.forward()
    n.layers[0].set_input_arrays(IMAGES[:4], np.arange(4))  # type: ignore[attr-defined]
    data, labels = batches(n, 3)
    assert labels.tolist() == [0, 1, 2, 3, 0, 1] and (data == IMAGES[labels.astype(int)]).all()


@pytest.mark.parametrize("phase", [brew.TRAIN, brew.TEST])
@pytest.mark.parametrize("transform", ["", "scale: 0.00390625 mean_value: 127.5", "mirror: true", "crop_size: 4",
                                       'mean_file: "nowhere"', "max_rotation_angle: 20", "cutout { size: 3 }"])
def test_arrays_given_to_memory_data_are_not_transformed(transform: str, phase: int, device: str,
                                                         caplog: pytest.LogCaptureFixture) -> None:
    n = net(MEMORY + (f" transform_param {{ {transform} }}" if transform else ""), phase, kind="MemoryData")
    given = IMAGES[:4].astype(np.float32)
    n.layers[0].set_input_arrays(given, np.arange(4))  # type: ignore[attr-defined]
    assert ('layer "d" (type "MemoryData") does not apply transform_param to arrays' in caplog.text) == bool(transform)
    data, labels = batches(n, 2)
    assert np.array_equal(data, given) and labels.tolist() == [0, 1, 2, 3]


def test_a_layer_in_place_leaves_the_programs_array_alone(device: str) -> None:
    text = f"""layer {{ name: "d" type: "MemoryData" top: "data" top: "label" {MEMORY} }}
               layer {{ name: "p" type: "Power" bottom: "data" top: "data" power_param {{ scale: 2 }} }}"""
    n = brew.Net(parse(text, pb.NetParameter()), brew.TEST)
    given = IMAGES[:2].astype(np.float32)
    n.layers[0].set_input_arrays(given, np.arange(2))  # type: ignore[attr-defined]
    for _ in range(2):
        assert (n.forward()["data"] == 2.0 * IMAGES[:2]).all() and (given == IMAGES[:2]).all()


@pytest.mark.parametrize("data, labels, message", [
    ((4, 3, 8), (4,), "takes arrays of shape (n, 3, 8, 9), found (4, 3, 8)"),
    ((), (), "takes arrays of shape (n, 3, 8, 9), found (1,)"),
    ((4, 3, 9, 8), (4,), "takes arrays of shape (n, 3, 8, 9), found (4, 3, 9, 8)"),
    ((4, 3, 8, 9), (3,), "takes one label for each of the 4 items, found (3,)"),
    ((4, 3, 8, 9), (4, 2), "takes one label for each of the 4 items, found (4, 2)"),
    ((3, 3, 8, 9), (3,), "takes a multiple of batch_size 2 items, found 3"),
    ((0, 3, 8, 9), (0,), "takes a multiple of batch_size 2 items, found 0")])
def test_arrays_that_do_not_fit_memory_data_are_refused(data: Row, labels: Row, message: str) -> None:
    n = net(MEMORY, kind="MemoryData")
    with pytest.raises(DataError, match=re.escape(f'layer "d" (type "MemoryData"): {message}')):
        n.layers[0].set_input_arrays(np.zeros(data), np.zeros(labels))  # type: ignore[attr-defined]


def test_dummy_data_refills_what_is_random() -> None:
    n = net('dummy_data_param { shape { dim: 4 } shape { dim: 4 } data_filler { type: "uniform" } data_filler { value: 2 } }', kind="DummyData")
    first = n.forward()["data"].copy()
    assert (n.forward()["data"] != first).all() and (n.blobs["label"].data == 2).all()


def test_a_label_out_of_range_is_an_error(device: str) -> None:
    from brew.tools.gradient_check import one_layer_net
    n = one_layer_net('type: "SoftmaxWithLoss" top: "y"', (3, 4), (3,))
    with pytest.raises(DataError, match=r'layer "l" \(type "SoftmaxWithLoss"\): the label at position 1 of the batch is 4; there are 4 classes, 0 to 3'):
        n.forward(b0=np.zeros((3, 4)), b1=np.array([0, 4, 5]))


# --------------------------------------------------------------------------------------------------------------- LevelDB

def level_database(folder: str = "level") -> None:
    plyvel = pytest.importorskip("plyvel", reason="no plyvel: pip install 'brew[leveldb]'")
    db = plyvel.DB(folder, create_if_missing=True)
    for i, image in enumerate(IMAGES):
        db.put(f"{i:08d}".encode(), pb.Datum(channels=3, height=8, width=9, data=image.tobytes(), label=i).SerializeToString())
    db.close()


def test_a_leveldb_holds_the_same_as_an_lmdb() -> None:
    database()
    level_database()
    for more in ("", "shuffle: true"):
        both = [batches(net(f'data_param {{ source: "{folder}" batch_size: 4 {more} }}'), 6) for folder in ("db", "level")]
        assert (both[0][0] == both[1][0]).all() and both[0][1].tolist() == both[1][1].tolist()


def test_two_layers_may_read_one_leveldb() -> None:
    level_database()
    first, second = (net('data_param { source: "level" batch_size: 5 }') for _ in range(2))
    assert (batches(first, 1)[0] == batches(second, 1)[0]).all()


def test_without_plyvel_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    level_database()
    monkeypatch.setitem(__import__("sys").modules, "plyvel", None)
    with pytest.raises(DataError, match=r"level: this is a LevelDB, which plyvel reads: pip install 'brew\[leveldb\]'"):
        net('data_param { source: "level" batch_size: 5 }')


def test_a_damaged_leveldb_is_named() -> None:
    level_database()
    Path("level/CURRENT").write_text("nothing\n")
    with pytest.raises(DataError, match="level: the LevelDB cannot be opened"):
        net('data_param { source: "level" batch_size: 5 }')


def test_a_database_that_this_program_has_open() -> None:
    """LMDB opens none twice in a process: the message says what to do."""
    write_database(Path("open_db"), [(b"0", pb.Datum(channels=1, height=1, width=1, data=b"1"))])
    text = 'layer { name: "d" type: "Data" top: "x" data_param { source: "open_db" batch_size: 1 } }'
    with lmdb.open("open_db", readonly=True), pytest.raises(DataError, match=r"open_db: .*\n  LMDB opens a database once in a process: call close\(\)"):
        brew.Net(parse(text, pb.NetParameter()))
    assert brew.Net(parse(text, pb.NetParameter())).forward()["x"][0, 0, 0, 0] == ord("1")
