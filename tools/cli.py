"""The command line: `brew train`, `test`, `time`, `summary`, `check`, `data`, and Caffe's tools. Flags are Caffe's, with one dash or two."""
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from ..proto.errors import BrewError
from .commands import PYTHON, add_tools, as_switches, split_script


SYNTHETIC = "xc-synthetic"
SIZES = {"labels": "number of labels (default 4096)", "features": "number of features (default 16384)",
         "examples": "training examples (default 50000)", "test": "test examples (default 10000)",
         "nonzeros": "features of an example, on average (default 75)",
         "labels_per_example": "labels of an example, on average (default 5)",
         "power": "label frequencies fall with this power of the rank (default 1; 0: all alike)",
         "seed": "of the random numbers (default 1)"}


class Parser(argparse.ArgumentParser):
    """argparse that names the nearest right word, and exits with 2."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        words = [] if "required" in message else message.replace("'", " ").replace(",", " ").split()
        for word in words:
            known = [*self._option_string_actions, *self.commands()]
            close = get_close_matches(word.split("=")[0], known, n=1) if word not in known else []
            hint = hint or (f"\n  did you mean {close[0]}?" if close else "")
        print(f"{self.prog}: {message}{hint}\n  {self.prog} -help shows what there is", file=sys.stderr)
        raise SystemExit(2)

    def commands(self) -> list[str]:
        return [name for a in self._actions if isinstance(a, argparse._SubParsersAction) for name in a.choices]


def flag(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
    """A flag that may be written -name or --name, and with = or a space before its value."""
    both = {f"-{name}", f"--{name}", f"-{name.replace('_', '-')}", f"--{name.replace('_', '-')}"}
    parser.add_argument(*sorted(both, key=lambda f: (len(f), f)), **options)


def make_parser() -> Parser:
    from ..version import __version__
    parser = Parser(prog="brew", description="Nets, layers and solvers declared in prototxt, as for Caffe.", add_help=False)
    parser.add_argument("-help", "--help", "-h", action="help", help="show this and exit")
    parser.add_argument("-version", "--version", action="version", version=f"brew {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="command", required=True, parser_class=Parser)

    def command(name: str, help: str, example: str) -> argparse.ArgumentParser:
        p = commands.add_parser(name, help=help, description=help + ".", epilog=f"example: {example}", add_help=False)
        p.add_argument("-help", "--help", "-h", action="help", help="show this and exit")
        flag(p, "gpu", default="", metavar="ID", help="run on this GPU")
        flag(p, "threads", type=int, default=0, metavar="N", help="CPU threads (default: all cores this process may use)")
        return p

    def net_flags(p: argparse.ArgumentParser, iterations: bool = True) -> None:
        flag(p, "model", default="", metavar="NET", help="the net's prototxt")
        flag(p, "level", type=int, default=0, help="the net's level")
        flag(p, "stage", default="", help="the net's stages, with commas between")
        if iterations:
            flag(p, "iterations", type=int, default=50, help="how many (default 50)")

    train = command("train", "train or fine-tune a net", "brew train -solver models/lenet/solver.prototxt")
    flag(train, "solver", default="", required=True, metavar="SOLVER", help="the solver's prototxt")
    flag(train, "snapshot", default="", metavar="STATE", help="resume from this solverstate; auto: from the last whole snapshot, if there is one")
    flag(train, "weights", default="", metavar="MODELS", help="start from these caffemodels, with commas between")
    flag(train, "level", type=int, default=0, help="the train net's level")
    flag(train, "stage", default="", help="the train net's stages, with commas between")
    flag(train, "tensorboard", default="", metavar="DIR", help="write scalars, and histograms of weights and gradients, for TensorBoard")
    flag(train, "plot", action="store_true", help="keep the picture of the curve up to date while training")
    for name, default in (("sigint_effect", "stop"), ("sighup_effect", "snapshot")):
        flag(train, name, default=default, choices=["stop", "snapshot", "none"], help=f"what {name[:6].upper()} does (default {default})")

    test = command("test", "score a net on its test data", "brew test -model net.prototxt -weights net.caffemodel -iterations 100")
    net_flags(test)
    flag(test, "weights", default="", metavar="MODEL", help="the caffemodel")

    timing = command("time", "measure each layer of a net", "brew time -model models/lenet/train_val.prototxt -iterations 20")
    net_flags(timing)
    flag(timing, "phase", default="TRAIN", choices=["TRAIN", "TEST"], help="TRAIN (default) or TEST")
    flag(timing, "json", default="", metavar="FILE", help="write the figures to this file, too")

    summary = command("summary", "show a net's layers, shapes, parameters, work and memory", "brew summary -model models/lenet/train_val.prototxt")
    net_flags(summary, iterations=False)
    flag(summary, "phase", default="TEST", choices=["TRAIN", "TEST"], help="TRAIN or TEST (default)")
    flag(summary, "python", **PYTHON)

    check = command("check", "list everything that is wrong with a net or solver, without running it", "brew check -solver models/lenet/solver.prototxt")
    flag(check, "model", default="", metavar="NET", help="a net's prototxt")
    flag(check, "solver", default="", metavar="SOLVER", help="a solver's prototxt; its nets are checked, too")
    flag(check, "phase", default="", choices=["TRAIN", "TEST", "BOTH"], help="of -model (default: those in which it has data; TEST for a net without data and losses)")
    flag(check, "python", **PYTHON)

    data = command("data", "build the databases of a well-known data set", "brew data mnist data/mnist --from downloads/")
    from .datasets import SETS
    from .sequences import SEQUENCES
    from .xc_sets import XC_SETS
    data.add_argument("name", choices=sorted([*SETS, *SEQUENCES, *XC_SETS, SYNTHETIC]), help="which")
    data.add_argument("folder", nargs="?", default="", help="where to (default data/NAME)")
    flag(data, "from", dest="source", default="", metavar="FOLDER", help="read the standard files from here instead of downloading them")
    flag(data, "url", default="", metavar="BASE", help="download from here instead of the usual place")
    for name, about in SIZES.items():
        flag(data, name, type=float if name == "power" else int, metavar="N", help=f"{SYNTHETIC}: {about}")
    add_tools(command, flag)
    return parser


def run(args: argparse.Namespace) -> int:
    """Run a parsed command; returns the exit code. The modules are imported here so that -help and usage errors are quick."""
    if args.threads:
        from ..engine.context import set_threads
        set_threads(args.threads)
    from .caffe_scripts import offer_caffe
    offer_caffe()
    if "tool" in args:
        module, function = args.tool
        return int(getattr(import_module(f".{module}", __package__), function)(args))
    if args.command == "train":
        from .train import train
        return train(args)
    if args.command == "test":
        from .score import score
        return score(args)
    if args.command == "time":
        from .timing import timing
        return timing(args)
    if args.command == "summary":
        from .summary import summary
        return summary(args)
    if args.command == "check":
        from .check import check
        return check(args)
    return build_data(args)


def build_data(args: argparse.Namespace) -> int:
    """Build a data set as `brew data` was asked to; returns the exit code."""
    from ..engine.errors import DataError
    from .datasets import SETS, build
    from .sequences import build_sequences
    from .xc_sets import XC_SETS, build_xc
    sizes = {name: getattr(args, name) for name in SIZES if getattr(args, name) is not None}
    if args.name == SYNTHETIC:
        from .xc_synthetic import Synthetic, build_synthetic
        if args.source or args.url:
            raise DataError(f"{SYNTHETIC} is generated: -from and -url are for other sets")
        return build_synthetic(args.folder, Synthetic(**sizes))
    if sizes:
        raise DataError(f"-{next(iter(sizes))} is only for {SYNTHETIC}, not for {args.name}")
    builder = build if args.name in SETS else build_xc if args.name in XC_SETS else build_sequences
    return builder(args.name, args.folder, args.source, args.url)


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: done; 1: an error, printed without a traceback; 2: the command line was not understood."""
    parser = make_parser()
    words, script = split_script(list(sys.argv[1:] if argv is None else argv))
    args = parser.parse_args(as_switches(words))
    args.script = script
    try:
        return run(args)
    except BrewError as e:
        print(f"brew: {e}", file=sys.stderr)
    except MemoryError:
        print("brew: there is not enough memory for this net\n  brew summary shows what its blobs need; a smaller batch_size needs less", file=sys.stderr)
    except KeyboardInterrupt:
        print("brew: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())   # whoever read our output has gone
    return 1


def stages(text: str) -> list[str]:
    """The stages of a -stage flag."""
    return [s for s in text.split(",") if s]


def choose_device(gpu: str) -> None:
    """Switch to the GPU of a -gpu flag, if there is one."""
    if gpu:
        from ..engine.context import set_device, set_mode_gpu
        from ..engine.errors import DeviceError
        if not gpu.isdecimal():
            raise DeviceError(f"-gpu takes the number of one GPU, found {gpu!r}")
        set_device(int(gpu))
        set_mode_gpu()


if __name__ == "__main__":
    raise SystemExit(main())
