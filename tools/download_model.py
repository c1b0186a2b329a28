"""brew download_model: the weights that a model's readme names."""
from __future__ import annotations

import argparse
from pathlib import Path

from ..engine.errors import DataError, Position, read_bytes
from .download import HEX, digest, download

FIELDS = ("caffemodel", "caffemodel_url")


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


def bare_name(name: str) -> bool:
    """Whether this is the name of a file, and no path: so that it lies in the folder that it is put in."""
    return 0 < len(name) <= 200 and name.isprintable() and not name.startswith(".") and not set(name) & set("/\\:")


def download_model(args: argparse.Namespace) -> int:
    """Download as `brew download_model` was asked to: what broke off goes on, and the SHA-1 must be the readme's. Raises DataError."""
    readme = Path(args.folder) / "readme.md"
    fields, at = front_matter(readme), Position(str(readme))
    missing = [name for name in FIELDS if not fields.get(name)]
    if missing:
        raise DataError(f"the block at the beginning lacks {', '.join(missing)}", at)
    name, url, checksum = fields["caffemodel"], fields["caffemodel_url"], fields.get("sha1", "").lower()
    if not bare_name(name):
        raise DataError(f"caffemodel must be the name of a file in this folder, without a path; found {name!r}", at)
    if checksum and (not HEX.fullmatch(checksum) or len(checksum) != 40):
        raise DataError(f"sha1 must be 40 hexadecimal digits, found {fields['sha1']!r}", at)
    if args.max_size < 1:
        raise DataError(f"-max_size must be at least 1 MiB, found {args.max_size}")
    path = Path(args.folder) / name
    there = path.exists()
    schemes = ("https", "http") if args.allow_http else ("https",)
    download(url, path, checksum, f"calling brew download_model {args.folder} again", schemes, args.max_size << 20,
             resume=bool(checksum))                        # else parts of two different files might be joined unnoticed
    print(f"{path}: {'was there already' if there else f'downloaded, {path.stat().st_size} bytes'}")
    if checksum:
        print(f"SHA-1 {checksum}, that of the readme")
    else:
        print(f"SHA-1 {digest(path, 'SHA-1')}; the readme gives none: compare it with what the author publishes")
    return 0
