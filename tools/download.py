"""Downloads that go on where they broke off, and are checked before they are used."""
from __future__ import annotations

import hashlib
import http.client
import os
import re
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..engine.errors import DataError, Position

BLOCK = 1 << 18
HEX = re.compile("[0-9a-f]{32}|[0-9a-f]{40}")


def digest(path: str | Path, kind: str) -> str:
    """The checksum of a file: "MD5", as data sets publish it, or "SHA-1", as models do. Raises DataError."""
    found = hashlib.new(kind.replace("-", "").lower(), usedforsecurity=False)
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK):
                found.update(block)
    except OSError as e:
        raise DataError(f"cannot be read: {e.strerror or e}", Position(str(path))) from None
    return found.hexdigest()


def kind_of(checksum: str) -> str:
    """Which checksum this is, by its length. Raises DataError for what is none."""
    if not HEX.fullmatch(checksum):
        raise DataError(f"a checksum is 32 (MD5) or 40 (SHA-1) hexadecimal digits, found {checksum!r}")
    return "SHA-1" if len(checksum) == 40 else "MD5"


def download(url: str, path: Path, checksum: str = "", again: str = "calling brew data again",
             schemes: Sequence[str] = ("https", "http"), limit: int = 0, resume: bool = True) -> Path:
    """Fetch `url` into `path` unless it is there already.

    checksum: the MD5 or SHA-1 that it must have, if known.  schemes: allowed for the URL and for redirects.  limit:
    bytes, 0 for none.  What has arrived lies in `path`.part; with `resume`, a later call asks the server for the rest,
    and `again` says how to make it.  Raises DataError; `path` is then unchanged.
    """
    kind = kind_of(checksum) if checksum else ""
    if path.exists():
        if checksum and (found := digest(path, kind)) != checksum:
            raise DataError(f"has the {kind} {found}; it should be {checksum}\n  remove it to download it again",
                            Position(str(path)))
        return path
    part = path.with_name(path.name + ".part")
    check_scheme(url, schemes)
    # Writing to a link would change another file.
    if part.is_symlink() or part.exists() and (not part.is_file() or part.stat().st_nlink > 1):
        raise DataError("is not what an earlier download left: remove it", Position(str(part)))
    if not resume:
        part.unlink(missing_ok=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _fetch(url, part, schemes, limit)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as e:
        text = str(getattr(e, "reason", None) or e)           # perhaps of the server
        reason = "".join(c if c.isprintable() else "?" for c in text)
        have = part.stat().st_size if part.exists() else 0
        hint = f"\n  {again} goes on from the {have} bytes that arrived" if resume else ""
        if "brew data" in again:
            hint += "\n  or fetch the files by other means and name their folder with --from"
        raise DataError(f"cannot download it: {reason}{hint}", Position(url)) from None
    if checksum and (found := digest(part, kind)) != checksum:
        part.unlink()
        raise DataError(f"what was downloaded has the {kind} {found}; it should be {checksum}", Position(url))
    part.replace(path)
    return path


def check_scheme(url: str, schemes: Sequence[str]) -> None:
    """Raise DataError unless the URL has one of these schemes, and a host."""
    try:
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:
        scheme, host = "", None
    if not url.isprintable() or not host or scheme not in schemes:
        hint = "\n  -allow_http allows http, where others can change what arrives" if scheme == "http" and host else ""
        raise DataError(f"only {' and '.join(schemes)} addresses are downloaded from, found {url!r}{hint}")


class _Redirects(urllib.request.HTTPRedirectHandler):
    def __init__(self, schemes: Sequence[str]):
        self.schemes = schemes

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        check_scheme(newurl, self.schemes)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(schemes: Sequence[str]) -> urllib.request.OpenerDirector:
    """For http and https alone: urllib's own opens files, too."""
    opener = urllib.request.OpenerDirector()
    for handler in (urllib.request.ProxyHandler(), urllib.request.HTTPHandler(), urllib.request.HTTPSHandler(),
                    urllib.request.HTTPDefaultErrorHandler(), _Redirects(schemes), urllib.request.HTTPErrorProcessor(),
                    urllib.request.UnknownHandler()):
        opener.add_handler(handler)
    return opener


def _fetch(url: str, part: Path, schemes: Sequence[str], limit: int) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = _opener(schemes).open(request, timeout=60)
    except urllib.error.HTTPError as e:
        if e.code == 416 and have:                        # nothing is left to send
            return
        raise
    with response:
        resumed = response.status == 206
        start = re.match(r"bytes (\d+)-", response.headers.get("Content-Range") or f"bytes {have}-")
        if resumed and (not start or int(start[1]) != have):
            sent = response.headers["Content-Range"]
            raise http.client.HTTPException(f"the server sent the part {sent!r} instead of that from byte {have} on")
        length = response.headers.get("Content-Length") or "0"
        total = int(length) + (have if resumed else 0) if length.isdigit() and int(length) else 0
        _check_size(total or have, limit, part, url)
        if total - have > free_space(part.parent):
            raise DataError(f"it has {total} bytes; {free_space(part.parent)} are free", Position(url))
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        handle = os.open(part, flags | (os.O_APPEND if resumed else os.O_TRUNC), 0o666)
        with open(handle, "wb") as file, Progress(*columns, console=Console(stderr=True)) as progress:
            size = have if resumed else 0
            task = progress.add_task(url.rpartition("/")[2], total=total or None, completed=size)
            while block := response.read(BLOCK):
                size += len(block)
                _check_size(size, limit, part, url)
                file.write(block)
                progress.advance(task, len(block))
            file.flush()
            os.fsync(file.fileno())                       # it gets its name only when it is on the disk
    if total and part.stat().st_size < total:
        raise http.client.IncompleteRead(b"", total - part.stat().st_size)


def _check_size(size: int, limit: int, part: Path, url: str) -> None:
    if limit and size > limit:
        part.unlink(missing_ok=True)
        raise DataError(f"it is larger than the limit of {limit / 2**20:g} MiB: -max_size raises it", Position(url))


def free_space(folder: Path) -> int:
    """Bytes that can still be written where `folder` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
