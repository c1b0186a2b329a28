"""brew download_model: the weights that a model's readme names."""
from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.errors import DataError, Position, read_bytes
from .download import download

FIELDS = ("caffemodel", "caffemodel_url", "sha1")


def front_matter(readme: Path) -> dict[str, str]:
    """The `name: value` lines between the two lines --- at a readme's beginning. Raises DataError."""
    lines = read_bytes(str(readme), "this readme", DataError).decode("utf-8", "replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in [line.strip() for line in lines[1:]]:
        raise DataError("it does not begin with a block between two lines ---, which names caffemodel, caffemodel_url and sha1", Position(str(readme)))
    found = {}
    for line in lines[1:]:
        if line.strip() == "---":
            break
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found


def download_model(args: argparse.Namespace) -> int:
    """Download as `brew download_model` was asked to: what broke off goes on, and the SHA-1 must be the readme's. Raises DataError."""
    readme = Path(args.folder) / "readme.md"
    fields = front_matter(readme)
    missing = [name for name in FIELDS if not fields.get(name)]
    if missing:
        raise DataError(f"the block at the beginning lacks {', '.join(missing)}", Position(str(readme)))
    path = Path(args.folder) / fields["caffemodel"]
    there = path.exists()
    download(fields["caffemodel_url"], path, fields["sha1"], f"calling brew download_model {args.folder} again")
    print(f"{path}: {'was there already' if there else 'downloaded'}; its SHA-1 is that of the readme")
    return 0
