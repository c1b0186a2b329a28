"""The commands that are tools of their own in Caffe, with their arguments. Their modules are imported when they run."""
from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence


# What every program of Caffe takes from glog, and what it does not change here: the log always goes to stderr.
GLOG = re.compile(r"--?(no)?(also)?(logtostderr|colorlogtostderr|log_prefix|logbuflevel|logbufsecs|log_dir|log_link|log_backtrace_at|max_log_size"
                  r"|stderrthreshold|stop_logging_if_full_disk|v|vmodule|minloglevel|symbolize_stacktrace|drop_log_memory)(=.*)?")
TRUTHS = re.compile(r"--?(?P<no>no)?(?P<name>gray|shuffle|check[-_]size|encoded)(?:=(?P<value>.*))?")


PYTHON = {"action": "store_true",
          "help": "import the modules of Python layers, which runs them; otherwise their shapes are unknown"}


def as_switches(argv: Sequence[str]) -> list[str]:
    """Flags as gflags takes them (--gray=true, --gray=0, --nogray) as argparse does: there, or not. Those of glog are left out."""
    result = []
    for word in argv:
        glog = GLOG.fullmatch(word)
        if glog:
            if glog[3] == "minloglevel" and glog[4]:
                os.environ["GLOG_minloglevel"] = glog[4][1:]
            continue
        found = TRUTHS.fullmatch(word)
        value = (found["value"] or "true").lower() if found else ""
        if not found or value not in ("true", "t", "yes", "1", "false", "f", "no", "0"):
            result.append(word)
        elif (value in ("true", "t", "yes", "1")) != bool(found["no"]):
            result.append("--" + found["name"])
    return result


def split_script(argv: list[str]) -> tuple[list[str], list[str]]:
    """The words of `brew run` that are brew's own, and the script with its arguments, which may look like flags."""
    if argv[:1] != ["run"]:
        return argv, []
    at = 1
    while at < len(argv) and argv[at].startswith("-") and argv[at] != "-m":
        at += 1 if "=" in argv[at] or argv[at].lstrip("-") in ("h", "help") else 2       # a flag with its value
    return argv[:at], argv[at:]


def add_tools(command: Callable[..., argparse.ArgumentParser], flag: Callable[..., None]) -> None:
    """Add them to the command line. `command` makes a parser of a name, help and example; `flag` adds a flag to one."""
    def tool(name: str, where: tuple[str, str], help: str, example: str, **positional: str) -> argparse.ArgumentParser:
        p = command(name, help, example)
        p.set_defaults(tool=where)
        for argument, about in positional.items():
            p.add_argument(argument, help=about)
        return p

    draw = tool("draw_net", ("draw", "draw_net"), "draw a net: shapes, parameters and work of each layer", "brew draw_net models/googlenet/deploy.prototxt googlenet.svg",
                net="the net's prototxt", picture="the file to write: svg, png or pdf")
    flag(draw, "rankdir", default="TB", choices=["TB", "BT", "LR", "RL"], help="from top to bottom (default), from left to right, or the other way")
    flag(draw, "phase", default="ALL", choices=["TRAIN", "TEST", "ALL"], help="only the layers of this phase")
    flag(draw, "python", **PYTHON)
    flag(draw, "display_lrm", action="store_true", help="show lr_mult and decay_mult")

    convert = tool("convert_imageset", ("convert_imageset", "convert_imageset"), "make a database of pictures", "brew convert_imageset --resize_width 256 --resize_height 256 --shuffle images/ train.txt train_lmdb",
                   root="what is put before each path of the list, with its last /", list="a text file, on each line a path and a label", database="the database to make")
    flag(convert, "gray", action="store_true", help="one channel instead of three")
    flag(convert, "shuffle", action="store_true", help="in random order")
    flag(convert, "seed", type=int, default=-1, help="of the order (default: drawn, and shown)")
    flag(convert, "backend", default="lmdb", help="lmdb (default) or leveldb")
    flag(convert, "resize_width", type=int, default=0, metavar="PIXELS", help="with resize_height: the size of all pictures")
    flag(convert, "resize_height", type=int, default=0, metavar="PIXELS", help="with resize_width: the size of all pictures")
    flag(convert, "check_size", action="store_true", help="stop at a picture of another size")
    flag(convert, "encoded", action="store_true", help="store files instead of pixels")
    flag(convert, "encode_type", default="", metavar="KIND", help="store files of this kind: jpg, png, ...")

    rows = tool("convert_xc", ("convert_xc", "convert_xc"), "make a database of sparse rows with lists of labels",
                "brew convert_xc Amazon670K_train.txt.gz amazon_train_lmdb",
                file="examples in the extreme-classification repository's format (N D L on the first line) or libsvm's, "
                     "perhaps gzipped", database="the database to make")
    flag(rows, "one_based", default="", choices=["none", "features", "labels", "both"],
         help="what counts from 1 (default: features, or none if the first line is N D L)")
    flag(rows, "features", type=int, default=0, metavar="D", help="number of features (default: of the first line, or what occurs)")
    flag(rows, "labels", type=int, default=0, metavar="L", help="number of labels (default: of the first line, or what occurs)")
    flag(rows, "repair", action="store_true", help="drop and count labels, features and values that are out of range or not finite")

    mean = tool("compute_image_mean", ("image_mean", "compute_image_mean"), "compute the mean of a database's pictures", "brew compute_image_mean train_lmdb mean.binaryproto", database="the database")
    mean.add_argument("output", nargs="?", default="", help="the mean file to write")
    flag(mean, "backend", default="", help="taken, and not needed: the folder says what it is")

    features = tool("extract_features", ("features", "extract_features"), "store what blobs of a net hold for its data", "brew extract_features w.caffemodel net.prototxt fc7,fc8 fc7_lmdb,fc8_lmdb 100 lmdb",
                    weights="the caffemodel", net="the net's prototxt, with a data layer in TEST", blobs="names of blobs, with commas between", databases="one database for each blob, with commas between")
    features.add_argument("batches", type=int, help="how many batches")
    features.add_argument("db_type", choices=["lmdb", "leveldb"], help="lmdb or leveldb")
    features.add_argument("device", nargs="?", default="CPU", help="CPU (default) or GPU")
    features.add_argument("device_id", nargs="?", default="0", help="which GPU, as DEVICE_ID=0")

    for name, what in (("upgrade_net_proto_text", "a net's prototxt"), ("upgrade_net_proto_binary", "a caffemodel"), ("upgrade_solver_proto_text", "a solver's prototxt")):
        tool(name, ("upgrade", name), f"bring {what} to today's form", f"brew {name} old new", input="the old file", output="the new file")

    log = tool("parse_log", ("parse_log", "parse_log"), "make tables of a training's log", "brew parse_log lenet.log .", logfile="the log", output_dir="the folder for LOG.train and LOG.test")
    flag(log, "verbose", action="store_true", help="taken, and says nothing more")
    flag(log, "delimiter", default=",", help="between columns (default ,)")

    plot = tool("plot_training_log", ("plot_log", "plot_training_log"), "draw curves of trainings from their logs", "brew plot_training_log 6 loss.svg first.log second.log")
    plot.add_argument("type", type=int, help="0, 1: test accuracy; 2, 3: test loss; 4, 5: learning rate; 6, 7: train loss; over iterations, or (odd) seconds")
    plot.add_argument("picture", help="the file to write: png, svg, pdf, or html (a page to zoom and point in)")
    plot.add_argument("logs", nargs="+", help="logs, or metrics files (.jsonl)")

    surgery = tool("surgery", ("surgery", "surgery"), "change a net and its weights together",
                   "brew surgery cast fc6=fc6-conv fc7=fc7-conv -model deploy.prototxt -weights w.caffemodel -out_model conv.prototxt -out_weights conv.caffemodel")
    surgery.add_argument("operation", choices=["rename", "drop", "cast", "cast-half", "transplant", "prune", "fold", "average"],
                         help="rename OLD=NEW: layers; drop LAYER; cast LAYER[=NEW]: InnerProduct to Convolution; cast-half: all weights to half precision; transplant [LAYER=DONORS]: weights of -donor; "
                              "prune LAYER=PART: channels, the weakest first; fold: BatchNorm and Scale into convolutions; average: several -weights")
    surgery.add_argument("words", nargs="*", metavar="LAYER[=...]", help="what to work on")
    flag(surgery, "model", default="", metavar="NET", help="the net's prototxt; rename, drop, transplant and average can do without")
    flag(surgery, "weights", required=True, metavar="MODEL", help="the caffemodel (average: several, with commas between)")
    flag(surgery, "donor", default="", metavar="MODEL", help="transplant: the caffemodel that weights come from")
    flag(surgery, "shares", default="", metavar="NUMBERS", help="average: the weight of each model, with commas between (default: equal)")
    flag(surgery, "out_model", default="", metavar="NET", help="the prototxt to write")
    flag(surgery, "out_weights", required=True, metavar="MODEL", help="the caffemodel to write")

    export = tool("export", ("onnx_graph", "export"), "write a net and its weights as an ONNX model", "brew export -model deploy.prototxt -weights w.caffemodel -output net.onnx")
    flag(export, "model", required=True, metavar="NET", help="the net's prototxt, in its TEST form; data layers become inputs, losses are left out")
    flag(export, "weights", default="", metavar="MODEL", help="the caffemodel")
    flag(export, "output", required=True, metavar="FILE", help="the .onnx file to write")
    flag(export, "any_batch", action="store_true", help="leave the number of items open")

    taken = tool("import", ("torch_import", "import_weights"), "take the weights of a PyTorch model", "brew import resnet50 resnet50.pth -out_model resnet50.prototxt -out_weights resnet50.caffemodel",
                 net="vgg16, squeezenet, resnet50 or inception_v3, as torchvision has them; or a prototxt, with -names", state="the state dict, a .pth file")
    flag(taken, "names", default="", metavar="FILE", help="on each line a layer, a space, and the torch module whose weights it takes")
    flag(taken, "out_model", required=True, metavar="NET", help="the prototxt to write")
    flag(taken, "out_weights", required=True, metavar="MODEL", help="the caffemodel to write")

    kinds = {"classify": tool("classify", (".pycaffe.scripts", "classify"), "classify pictures with a trained net", "brew classify photos/ prob.npy --model_def deploy.prototxt --pretrained_model w.caffemodel",
                              input="a picture, a folder of them, or an .npy array of them", output="the .npy file to write: (pictures, classes)"),
             "detect": tool("detect", (".pycaffe.scripts", "detect"), "classify windows of pictures with a trained net", "brew detect windows.csv found.csv --model_def deploy.prototxt --pretrained_model w.caffemodel",
                            input="a table with filename, ymin, xmin, ymax, xmax; or a list of pictures", output="the .h5 or .csv file to write"),
             "activations": tool("activations", (".pycaffe.scripts", "activations"), "draw what an image lights up", "brew activations cat.jpg conv1 conv1.png --model_def deploy.prototxt --pretrained_model w.caffemodel",
                                 image="the image", blob="the blob to draw", picture="the file to write: png or jpg")}
    for p in kinds.values():
        flag(p, "model_def", required=True, metavar="NET", help="the deploy prototxt")
        flag(p, "pretrained_model", required=True, metavar="MODEL", help="the caffemodel")
        flag(p, "mean_file", default="", metavar="FILE", help=".npy or binaryproto; its mean of each channel is subtracted")
        flag(p, "input_scale", type=float, help="a factor after the mean")
        flag(p, "raw_scale", type=float, default=255.0, help="a factor before the mean (default 255)")
        flag(p, "channel_swap", default="2,1,0", help="the order of channels (default 2,1,0: BGR)")
    flag(kinds["activations"], "each", action="store_true", help="from black to white within each channel, instead of over all")
    flag(kinds["classify"], "center_only", action="store_true", help="one crop instead of the mean over ten")
    flag(kinds["classify"], "images_dim", default="256,256", help="height and width to resize to, before cropping (default 256,256)")
    flag(kinds["classify"], "ext", default="jpg", help="the ending of a folder's pictures (default jpg)")
    flag(kinds["classify"], "labels", default="", metavar="FILE", help="names of the classes, one a line: print the best five")
    flag(kinds["detect"], "crop_mode", default="list", choices=["list", "selective_search"], help="where windows come from")
    flag(kinds["detect"], "context_pad", type=int, default=16, help="pixels of what is around a window (default 16)")

    filters = tool("filters", ("pictures", "filters"), "draw what a layer has learned to look for", "brew filters squeezenet.caffemodel conv1 conv1.png",
                   weights="the caffemodel", layer="a Convolution or InnerProduct", picture="the file to write: png or jpg")
    flag(filters, "count", type=int, default=64, help="at most so many filters, and inputs of each (default 64)")
    flag(filters, "each", action="store_true", help="from black to white within each tile, instead of over all")
    flag(filters, "rgb", action="store_true", help="the three inputs are R, G, B (default: B, G, R, as in Caffe)")

    tool("device_query", ("device_query", "device_query"), "show what brew can run on here", "brew device_query -gpu all")
    weights = tool("download_model", ("download_model", "download_model"),
                   "download the weights that a model's readme names",
                   "brew download_model models/bvlc_reference_caffenet", folder="the model's folder, with its readme.md")
    flag(weights, "allow_http", action="store_true", help="allow http addresses, where others can change what arrives")
    flag(weights, "max_size", type=int, default=2048, metavar="MIB",
         help="refuse larger files (default 2048, the largest that a binary caffemodel can be)")

    run = tool("run", ("caffe_scripts", "run"), "run a Python script that was written for Caffe", "brew run classify.py --model_def deploy.prototxt cat.jpg out.npy")
    flag(run, "no_gpu", default="", choices=["error", "warn"], help="what caffe.set_mode_gpu() does where there is no GPU: warn goes on on the CPU (default: BREW_NO_GPU, or error)")
    run.usage = "brew run [-no_gpu warn] [-gpu ID] [-threads N] SCRIPT ARGUMENTS, or -m MODULE ARGUMENTS"
    link = tool("install-caffe", ("caffe_scripts", "install_caffe"), "let `import caffe` give brew in this Python environment", "brew install-caffe")
    flag(link, "remove", action="store_true", help="take it away again")
    wrappers = tool("install-tools", ("wrappers", "install_tools"), "write Caffe's programs under their own names, for scripts that call them", "brew install-tools build",
                    folder="what Caffe calls build: programs go to FOLDER/tools and FOLDER/examples")
    wrappers.epilog += "; ./build/tools/caffe train --solver=solver.prototxt"                   # type: ignore[operator]

    for name, what in (("convert_mnist_data", "make a database of files in MNIST's format"),
                       ("convert_mnist_siamese_data", "make a database of pairs of pictures in MNIST's format")):
        p = tool(name, ("example_tools", name), what, f"brew {name} train-images-idx3-ubyte train-labels-idx1-ubyte mnist_train_lmdb",
                 images="the IDX file of images, packed with gzip or not", labels="the IDX file of labels", database="the database to make")
        flag(p, "backend", default="lmdb", help="lmdb (default) or leveldb")
    flag(p, "seed", type=int, default=-1, help="of the pairs (default: drawn, and shown)")
    tool("convert_cifar_data", ("example_tools", "convert_cifar_data"), "make databases of CIFAR-10's binary files", "brew convert_cifar_data cifar-10-batches-bin . lmdb",
         input="the folder of data_batch_1.bin to 5 and test_batch.bin", output="the folder to make cifar10_train_DB and cifar10_test_DB in", db_type="lmdb or leveldb")
    tool("classification", ("example_tools", "classification"), "print the best classes of a picture",
         "brew classification deploy.prototxt network.caffemodel mean.binaryproto labels.txt img.jpg", model="the deploy prototxt", weights="the caffemodel",
         mean="the mean file, a binaryproto", labels="the names of the classes, one a line", image="the picture")
