"""A command that is refused changes no file: arguments, files and extras are checked before anything is written."""
from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

import brew
from brew.proto import parse, pb
from brew.tools.cli import main, make_parser
from brew.tools.database import write_database

NET = """name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "db" batch_size: 2 } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
DEPLOY = """name: "deploy"
layer { name: "in" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 3 } }
"""
OUTPUT = """layer { name: "out" type: "HDF5Output" bottom: "ip" bottom: "label"
        hdf5_output_param { file_name: "out/a.h5" } }
"""
WRONG = """layer { name: "wrong" type: "Convolution" bottom: "data" top: "wrong"
        convolution_param { num_output: 1 kernel_size: 99 } }
"""
PYTHON = """layer { name: "py" type: "Python" bottom: "ip" top: "py"
        python_param { module: "no_such_layers" layer: "L" } }
"""
IM2COL = 'layer { name: "col" type: "Im2col" bottom: "data" top: "col" convolution_param { kernel_size: 3 } }\n'
NETS = {
    "net": NET, "no_data": NET.replace('"db"', '"no_db"'), "wrong": NET + WRONG, "python": NET + PYTHON,
    "deploy": DEPLOY, "im2col": DEPLOY + IM2COL,
    "h5": NET + OUTPUT, "h5_wrong": NET + OUTPUT + WRONG, "h5_text": NET + OUTPUT.replace("out/a.h5", "net.prototxt"),
    "h5_nowhere": NET + OUTPUT.replace("out/a.h5", "no/folder/a.h5")}
BASE = 'base_lr: 0.01 lr_policy: "fixed" max_iter: 2 display: 1 snapshot_prefix: "out/run" '
TEST_BASE = BASE + 'train_net: "net.prototxt" test_iter: 1 test_interval: 1 '
SOLVERS = {
    "solver": BASE + 'net: "net.prototxt"', "solver_nonet": BASE + 'net: "gone.prototxt"',
    "solver_notest": TEST_BASE + 'test_net: "gone.prototxt"',
    **{f"solver_{net}": BASE + f'net: "{net}.prototxt"' for net in NETS if net not in ("net", "deploy", "im2col")},
    **{f"solver_test_{net}": TEST_BASE + f'test_net: "{net}.prototxt"' for net in ("no_data", "wrong")},
    "solver_nowhere": BASE.replace("out/run", "no/folder/run") + 'net: "net.prototxt"',
    "solver_policy": BASE.replace("fixed", "fixd") + 'net: "net.prototxt"',
    "solver_type": BASE + 'net: "net.prototxt" type: "SDG"',
    "solver_momentum": BASE + 'net: "net.prototxt" type: "AdaGrad" momentum: 0.9',
    "solver_weights": BASE + 'net: "net.prototxt" weights: "w.caffemodel, gone.caffemodel"'}
TEXTS = {
    **{f"{name}.prototxt": text for name, text in {**NETS, **SOLVERS}.items()},
    "list.txt": "a.png 0\n", "missing_pictures.txt": "gone.png 0\n", "nolabel.txt": "a.png\n",
    "rows.txt": "3,1 2:1\n 1:1\n",
    "windows.csv": "filename,ymin,xmin,ymax,xmax\npictures/a.png,0,0,5,5\n", "bad.csv": "filename\nx\n",
    "empty.log": "nothing\n",
    "train.log": "I0101 00:00:00.000000  1 solver.cpp:1] Iteration 0, loss = 1\n"
                 "I0101 00:00:00.000000  1 solver.cpp:1]     Train net output #0: loss = 1\n"}
OLD = """run_metrics.jsonl run_curve.png run.log a.svg a.html a.png a.json a.npy a.csv a.onnx a.prototxt a.caffemodel
         mean.binaryproto train.log.train train.log.test""".split()


@pytest.fixture(autouse=True)
def no_log_handlers() -> Iterator[None]:
    """Commands that run in this process leave theirs, which write to what pytest has closed by then."""
    logger = logging.getLogger("brew")
    before = logger.handlers[:], logger.level, logger.propagate
    logger.handlers[:] = []                                    # of tests that ran before
    yield
    logger.handlers[:], logger.level, logger.propagate = before


@pytest.fixture
def workshop() -> None:
    """What the commands work on, and results of earlier runs in out/, which nothing may touch."""
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8), np.uint8)
    records = [pb.Datum(channels=3, height=8, width=8, data=image.tobytes(), label=1) for image in images]
    write_database(Path("db"), ((f"{i}".encode(), record) for i, record in enumerate(records)))
    for name, text in TEXTS.items():
        Path(name).write_text(text)
    brew.Net("deploy.prototxt", brew.TEST).save("w.caffemodel")
    wider = parse(DEPLOY.replace("num_output: 3", "num_output: 4"), pb.NetParameter())
    brew.Net(wider, brew.TEST).save("other.caffemodel")
    Path("damaged.caffemodel").write_bytes(Path("w.caffemodel").read_bytes()[:99])
    for folder in ("out", "pictures", "half", "taken"):
        Path(folder).mkdir()
    cv2.imwrite("pictures/a.png", np.zeros((8, 8, 3), np.uint8))
    for name in OLD:
        Path("out", name).write_text(f"of the run before: {name}\n")
    with h5py.File("out/a.h5", "w") as file:
        file["data"] = np.arange(3)
    Path("out/damaged.solverstate").write_bytes(b"\x08\x01 no state")
    Path("half/train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03\0\0\0\1\0\0\0\1\0\0\0\1\7")
    Path("half/train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01\0\0\0\1\3")       # and none for the test


# What a line stands for by a word in capitals.
WORDS = {
    "NO_FOLDER": "cannot write: No such file or directory", "NO_FILE": "No such file or directory",
    "SURGERY": "-model deploy.prototxt -weights w.caffemodel",
    "NET": "--model_def deploy.prototxt --pretrained_model w.caffemodel",
    "OUT": "-out_model out/a.prototxt -out_weights out/a.caffemodel"}


def meaning(text: str) -> str:
    for word, stands_for in WORDS.items():
        text = re.sub(rf"\b{word}\b", stands_for, text)
    return text


# command line | what it says | the module that is not installed
REFUSED = [tuple(part.strip() for part in f"{meaning(row)}||".split("|")[:3]) for row in r"""
train | required
train -solver gone.prototxt | NO_FILE
train -solver solver.prototxt -snapshot a -weights b | give one of them
train -solver solver.prototxt -sigint_effect dance | invalid choice
train -solver solver.prototxt -gpu 99 | brew: 
train -solver solver.prototxt -weights gone.caffemodel | gone.caffemodel: cannot read this caffemodel
train -solver solver.prototxt -weights w.caffemodel,gone.caffemodel | gone.caffemodel: cannot read this caffemodel
train -solver solver.prototxt -weights out | out: cannot read this caffemodel: Is a directory
train -solver solver.prototxt -weights damaged.caffemodel | damaged.caffemodel: this is no caffemodel
train -solver solver.prototxt -weights gone.caffemodel.h5 | cannot read this caffemodel: NO_FILE
train -solver solver.prototxt -weights other.caffemodel | blob 0 of layer "ip" has the shape (4, 192)
train -solver solver_weights.prototxt | gone.caffemodel: cannot read this caffemodel
train -solver solver.prototxt -snapshot gone.solverstate | gone.solverstate: cannot read this solverstate: NO_FILE
train -solver solver.prototxt -snapshot out/damaged.solverstate | out/damaged.solverstate
train -solver solver.prototxt -snapshot w.caffemodel | this is a caffemodel
train -solver solver.prototxt -plot | -plot needs matplotlib: pip install 'brew[plot]' | matplotlib.figure
train -solver solver.prototxt -tensorboard out/tb | -tensorboard needs tensorboardX | tensorboardX
train -solver solver.prototxt -plot -tensorboard out/tb | -tensorboard needs tensorboardX | tensorboardX
train -solver solver.prototxt -tensorboard net.prototxt | net.prototxt: cannot write: Not a directory
train -solver solver_nonet.prototxt | gone.prototxt: cannot read this NetParameter file: NO_FILE
train -solver solver_notest.prototxt | gone.prototxt: cannot read this NetParameter file
train -solver solver_no_data.prototxt | no_db: there is no LMDB here
train -solver solver_test_no_data.prototxt | no_db: there is no LMDB here
train -solver solver_wrong.prototxt | wrong.prototxt:6:9: layer "wrong"
train -solver solver_test_wrong.prototxt | wrong.prototxt:6:9: layer "wrong"
train -solver solver_h5_wrong.prototxt | layer "wrong"
train -solver solver_h5.prototxt -weights other.caffemodel | has the shape (4, 192)
train -solver solver_h5.prototxt -snapshot out/damaged.solverstate | out/damaged.solverstate
train -solver solver_h5_text.prototxt | net.prototxt: is not an HDF5 file: layer "out" does not overwrite it
train -solver solver_h5_nowhere.prototxt | no/folder/a.h5: NO_FOLDER
train -solver solver_python.prototxt | there is no Python module "no_such_layers"
train -solver solver_nowhere.prototxt | no/folder/run_metrics.jsonl: NO_FOLDER
train -solver solver_policy.prototxt | fixd
train -solver solver_type.prototxt | no solver is called "SDG"
train -solver solver_momentum.prototxt | momentum must be 0 for type "AdaGrad"

test | needs -model
test -model gone.prototxt | NO_FILE
test -model net.prototxt -iterations 0 | -iterations must be at least 1
test -model h5.prototxt -weights gone.caffemodel | cannot read this caffemodel: NO_FILE
test -model h5.prototxt -weights other.caffemodel | has the shape (4, 192)
test -model h5_text.prototxt -weights w.caffemodel | is not an HDF5 file
test -model h5_wrong.prototxt -weights w.caffemodel | layer "wrong"

time | needs -model
time -model net.prototxt -iterations 0 | -iterations must be at least 1
time -model h5.prototxt -json no/folder/a.json | NO_FOLDER
time -model h5_wrong.prototxt -json out/a.json | layer "wrong"
time -model gone.prototxt -json out/a.json | NO_FILE
time -model net.prototxt -json out | out: cannot write: Is a directory

summary | needs -model
summary -model h5_wrong.prototxt | layer "wrong"

check | needs either
check -model h5_wrong.prototxt | layer "wrong"
check -model gone.prototxt | NO_FILE

draw_net net.prototxt out/a.gif | pictures of nets are
draw_net gone.prototxt out/a.svg | NO_FILE
draw_net net.prototxt no/folder/a.svg | NO_FOLDER
draw_net net.prototxt out/a.svg | drawing needs matplotlib | matplotlib

convert_imageset pictures/ gone.txt new/deep/db | NO_FILE
convert_imageset pictures/ nolabel.txt new/deep/db | a path, a space and a label
convert_imageset pictures/ list.txt taken | something here already
convert_imageset pictures/ missing_pictures.txt new/deep/db | none of the 1 pictures can be read
convert_imageset --resize_width 5 pictures/ list.txt new/deep/db | together
convert_imageset --backend rocksdb pictures/ list.txt new/deep/db | lmdb or leveldb
convert_imageset --encode_type zip pictures/ list.txt new/deep/db | no way to encode "zip"
convert_imageset --backend leveldb pictures/ list.txt new/deep/db | plyvel | plyvel
convert_imageset pictures/ list.txt net.prototxt/db | cannot be written

convert_xc gone new/deep/db | NO_FILE
convert_xc net.prototxt new/deep/db | net.prototxt:1: a feature is INDEX:VALUE
convert_xc rows.txt taken | something here already
convert_xc rows.txt net.prototxt/db | cannot be written
convert_xc rows.txt new/deep/db -labels 2 | rows.txt:1: a label must lie between 0 and 1
convert_xc rows.txt new/deep/db -labels -2 | found -2
convert_xc rows.txt new/deep/db -one_based all | invalid choice

compute_image_mean gone out/mean.binaryproto | there is no LMDB here
compute_image_mean db no/folder/mean.binaryproto | NO_FOLDER
compute_image_mean db out | Is a directory

extract_features w.caffemodel h5.prototxt ip new/a,new/b 1 lmdb | one database for each blob
extract_features w.caffemodel h5.prototxt ip new/a 0 lmdb | at least 1
extract_features w.caffemodel h5.prototxt ip new/a 1 lmdb TPU | CPU or GPU
extract_features gone.caffemodel h5.prototxt ip new/a 1 lmdb | NO_FILE
extract_features w.caffemodel h5.prototxt nothing new/a 1 lmdb | no blob "nothing"
extract_features w.caffemodel h5.prototxt ip,data new/a,new/a 1 lmdb | two databases would be written here
extract_features w.caffemodel h5.prototxt ip,data new/a,taken 1 lmdb | something here already
extract_features w.caffemodel h5.prototxt ip new/a 1 leveldb | plyvel | plyvel
extract_features w.caffemodel no_data.prototxt ip new/a 1 lmdb | no_db

upgrade_net_proto_text gone out/a.prototxt | NO_FILE
upgrade_net_proto_text net.prototxt no/folder/a | NO_FOLDER
upgrade_net_proto_text net.prototxt out | cannot write: Is a directory
upgrade_net_proto_text pictures/a.png out/a.prototxt | pictures/a.png

upgrade_net_proto_binary gone out/a.prototxt | NO_FILE
upgrade_net_proto_binary w.caffemodel no/folder/a | NO_FOLDER
upgrade_net_proto_binary w.caffemodel out | cannot write: Is a directory
upgrade_net_proto_binary pictures/a.png out/a.prototxt | pictures/a.png

upgrade_solver_proto_text gone out/a.prototxt | NO_FILE
upgrade_solver_proto_text solver.prototxt no/folder/a | NO_FOLDER
upgrade_solver_proto_text solver.prototxt out | cannot write: Is a directory
upgrade_solver_proto_text pictures/a.png out/a.prototxt | pictures/a.png

parse_log gone.log out | NO_FILE
parse_log empty.log out | holds no net outputs
parse_log train.log no/folder | NO_FOLDER
parse_log --delimiter ;; train.log out | --delimiter is one character, found ';;'

plot_training_log 6 out/a.gif train.log | a picture is
plot_training_log 9 out/a.svg train.log | a chart is
plot_training_log 6 out/a.svg gone.log | NO_FILE
plot_training_log 0 out/a.svg train.log | there is no test
plot_training_log 6 out/a.svg train.log | drawing needs matplotlib | matplotlib.figure
plot_training_log 6 out/a.html train.log | needs plotly | plotly.graph_objects
plot_training_log 6 no/folder/a.svg train.log | NO_FOLDER

surgery drop nothing SURGERY OUT | no layer "nothing"
surgery drop SURGERY OUT | needs the names of layers
surgery cast ip SURGERY -out_weights out/a.caffemodel | -out_model says where
surgery drop ip SURGERY -out_model out/a.prototxt -out_weights no/folder/a | NO_FOLDER
surgery drop ip SURGERY -out_model out/a.prototxt -out_weights out/a.prototxt | two results would be written
surgery transplant SURGERY -donor gone OUT | NO_FILE
surgery drop ip -model deploy.prototxt -weights gone OUT | NO_FILE
surgery prune ip=2 SURGERY OUT | less than 1
surgery average -weights w.caffemodel,other.caffemodel -out_weights out/a.caffemodel | has the shapes

export -model deploy.prototxt -output no/folder/a.onnx | NO_FOLDER
export -model deploy.prototxt -output out/a.onnx | exporting needs onnx | onnx
export -model deploy.prototxt -weights gone -output out/a.onnx | NO_FILE
export -model python.prototxt -output out/a.onnx | has no form in ONNX
export -model h5.prototxt -weights other.caffemodel -output out/a.onnx | has the shape (4, 192)
export -model im2col.prototxt -output out/a.onnx | has no form in ONNX

import vgg16 gone.pth -out_model no/folder/a -out_weights out/a.caffemodel | NO_FOLDER
import vgg16 w.caffemodel OUT | needs torch | torch

classify pictures/a.png no/folder/a.npy NET | NO_FOLDER
classify gone.png out/a.npy NET | NO_FILE
classify pictures out/a.npy NET | no files *.jpg
classify pictures/a.png out/a.npy NET --labels gone.txt | NO_FILE
classify pictures/a.png out/a NET --images_dim 5 | takes 2 numbers
classify pictures/a.png out/a NET --mean_file gone.npy | gone.npy
classify pictures/a.png out/a.npy --model_def deploy.prototxt --pretrained_model gone | NO_FILE
classify net.prototxt out/a.npy NET | not a picture

detect windows.csv out/a.txt NET | a .h5 or a .csv file
detect gone.csv out/a.csv NET | NO_FILE
detect bad.csv out/a.csv NET | columns
detect windows.csv no/folder/a.csv NET | NO_FOLDER
detect windows.csv out/a.csv NET --context_pad 9 | leaves nothing

activations pictures/a.png nothing out/a.png NET | no blob "nothing"
activations gone.png ip out/a.png NET | NO_FILE
activations pictures/a.png data out/a.xyz NET | no picture can be written
activations pictures/a.png ip no/folder/a.png NET | NO_FOLDER
activations pictures/a.png ip out/a.png NET | needs matplotlib | matplotlib.figure

filters gone ip out/a.png | NO_FILE
filters w.caffemodel nothing out/a.png | no weights of a layer "nothing"
filters w.caffemodel ip out/a.xyz | no picture can be written
filters w.caffemodel ip no/folder/a.png | NO_FOLDER

data mnist new/mnist --from half | there is no t10k-images-idx3-ubyte.gz in this folder
data mnist new/mnist --from gone | in this folder
data mnsit | invalid choice
data digits new/digits | scikit-learn | sklearn.datasets
data mnist net.prototxt/x --from half | cannot write: Not a directory
data tiny-imagenet-subset new/x | published nowhere
data tinyshakespeare new/x --from half | in this folder
data bibtex new/x --from half | there is no bibtex_train.txt.gz in this folder
data bibtex new/x | no address is known
data bibtex net.prototxt/x --from half | cannot write: Not a directory
data xc-synthetic net.prototxt/x | cannot write: Not a directory
data xc-synthetic new/x -labels 0 | -labels must lie between
data los-speed new/x | no place to download

device_query -gpu 99 | there 

download_model out | NO_FILE

convert_mnist_data gone labels.idx out/db | NO_FILE
convert_mnist_data net.prototxt net.prototxt out/db | this is no IDX file of bytes
convert_mnist_data net.prototxt net.prototxt out/db --backend=sqlite | lmdb or leveldb
convert_mnist_data net.prototxt net.prototxt taken | something here already
convert_mnist_siamese_data net.prototxt net.prototxt out/db | this is no IDX file of bytes
convert_cifar_data pictures out lmdb | NO_FILE
convert_cifar_data pictures out sqlite | lmdb or leveldb
classification gone w.caffemodel mean.binaryproto windows.csv pictures/a.png | NO_FILE
classification net.prototxt gone mean.binaryproto windows.csv pictures/a.png | NO_FILE
install-tools net.prototxt | cannot be written: Not a directory

run gone.py | there is no such script
run -no_gpu perhaps gone.py | invalid choice
install-caffe -remvoe | unrecognized arguments: -remvoe
""".splitlines() if row]


def tree() -> dict[str, tuple[bytes, int] | None]:
    """Each file with its bytes and when it was written, and each folder."""
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) if path.is_file() else None
            for path in Path().rglob("*")}


@pytest.mark.parametrize("line, message, extra", REFUSED, ids=[line for line, _, _ in REFUSED])
def test_what_is_refused_changes_nothing(line: str, message: str, extra: str, workshop: None,
                                         capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = tree()
    if extra:
        monkeypatch.setitem(sys.modules, extra, None)
    try:
        code = main(line.split())
    except SystemExit as e:
        code = int(e.code or 0)
    err = capsys.readouterr().err
    assert code in (1, 2) and message in err and "Traceback" not in err, err[-2000:]
    assert tree() == before


def test_the_table_has_all_commands() -> None:
    assert {line.split()[0] for line, _, _ in REFUSED} == set(make_parser().commands())


LATER = ("damaged.solverstate", "-snapshot w", "-sigint")     # a state is read when nets are built; usage is argparse's
TRAININGS = [(line, extra) for line, _, extra in REFUSED
             if line.startswith("train -solver") and not any(word in line for word in LATER)]


@pytest.mark.parametrize("line, extra", TRAININGS)
def test_training_says_first_what_is_wrong(line: str, extra: str, workshop: None, capsys: pytest.CaptureFixture[str],
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    if extra:
        monkeypatch.setitem(sys.modules, extra, None)
    assert main(line.split()) == 1
    err = capsys.readouterr().err
    assert err.startswith("brew: ") and "Initializing" not in err and "Creating" not in err


WORK = """
train -solver solver.prototxt -weights w.caffemodel
test -model h5.prototxt -weights w.caffemodel -iterations 1
convert_imageset pictures/ list.txt new/deep/db
convert_xc rows.txt new/rows
data xc-synthetic new/x --labels 9 --features 20 --examples 30 --test 3 --nonzeros 5
surgery drop ip SURGERY OUT
parse_log train.log out
classify pictures/a.png out/a NET --images_dim 8,8 --center_only
"""


def test_the_other_way_round_it_works(workshop: None) -> None:
    """The table would pass if nothing worked at all."""
    for line in WORK.split("\n")[1:-1]:
        command = [sys.executable, "-m", "brew.tools.cli", *meaning(line).split()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
    with h5py.File("out/a.h5") as file:
        assert file["data"].shape == (2, 3)
    for folder in ("deep/db", "rows", "x/xc_synthetic_train_lmdb", "x/xc_synthetic_test_lmdb"):
        assert Path("new", folder, "data.mdb").exists()
    assert np.load("out/a.npy").shape[0] == 1
    assert "of the run before" not in Path("out/run_metrics.jsonl").read_text()


def test_missing_weights_are_named_before_a_net_is_built(workshop: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "brew"), pytest.raises(brew.BrewError, match="cannot read this caffemodel"):
        brew.Net("net.prototxt", brew.TEST, weights="gone.caffemodel")
    with caplog.at_level("INFO", "brew"), pytest.raises(brew.BrewError, match="cannot read this caffemodel"):
        brew.get_solver("solver_weights.prototxt")
    assert not caplog.records


def test_hdf5_files_are_begun_anew_by_the_first_forward(workshop: None) -> None:
    """Once for a net that was built; layers of two nets that name the same file append to it."""
    nets = [brew.Net("h5.prototxt", brew.TEST), brew.Net("h5.prototxt", brew.TRAIN)]
    with h5py.File("out/a.h5") as file:
        assert file["data"].shape == (3,)
    for net in (*nets, nets[0]):
        net.forward()
    with h5py.File("out/a.h5") as file:
        assert file["data"].shape == (6, 3)
