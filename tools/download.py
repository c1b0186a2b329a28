"""Downloads that go on where they broke off, and are checked before they are used."""
from __future__ import annotations

import hashlib
import http.client
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from ..engine.errors import DataError, Position

BLOCK = 1 << 18


def digest(path: str | Path, checksum: str) -> str:
    """The checksum of a file, of the kind of `checksum`: MD5, as data sets publish it, or SHA-1, as models do."""
    found = hashlib.new(_kind(checksum).replace("-", "").lower(), usedforsecurity=False)
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def _kind(checksum: str) -> str:
    return "SHA-1" if len(checksum) == 40 else "MD5"


def download(url: str, path: Path, checksum: str = "", again: str = "calling brew data again") -> Path:
    """Fetch `url` into `path` unless it is there already; `checksum` is the MD5 or SHA-1 it must have, if known.

    What has arrived lies in `path`.part; a later call asks the server for the rest, and `again` says how to make it.  Raises DataError.
    """
    part = path.with_name(path.name + ".part")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(url, part)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as e:
            reason = getattr(e, "reason", None) or e
            raise DataError(f"cannot download it: {reason}\n  {again} goes on from the {part.stat().st_size if part.exists() else 0} bytes that arrived"
                            + ("\n  or fetch the files by other means and name their folder with --from" if "brew data" in again else ""), Position(url)) from None
        if checksum and (found := digest(part, checksum)) != checksum:
            part.unlink()
            raise DataError(f"what was downloaded has the {_kind(checksum)} {found}; it should be {checksum}", Position(url))
        part.replace(path)
    elif checksum and (found := digest(path, checksum)) != checksum:
        raise DataError(f"has the {_kind(checksum)} {found}; it should be {checksum}\n  remove it to download it again", Position(str(path)))
    return path


def _fetch(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as e:
        if e.code == 416 and have:                        # nothing is left to send
            return
        raise
    with response:
        resumed = response.status == 206
        total = int(response.headers.get("Content-Length") or 0) + (have if resumed else 0)
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with open(part, "ab" if resumed else "wb") as file, Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(url.rpartition("/")[2], total=total or None, completed=have if resumed else 0)
            while block := response.read(BLOCK):
                file.write(block)
                progress.advance(task, len(block))
    if total and part.stat().st_size < total:
        raise http.client.IncompleteRead(b"", total - part.stat().st_size)


def free_space(folder: Path) -> int:
    """Bytes that can still be written where `folder` is or will be."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
