"""brew download_model: only a file in the model's folder, only from https, whole, of the right checksum; or nothing."""
from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from brew.engine.errors import DataError
from brew.tools.cli import main
from brew.tools.download import download

DATA = bytes(range(250)) * 20
SHA1 = hashlib.sha1(DATA).hexdigest()


class Weights(BaseHTTPRequestHandler):
    """Serves DATA and parts of it: /w whole, /broken its first 1,000 bytes, /whole without ranges, /wrong_part another
    part, /endless without end or length, /huge with the length of 5 TB; /to?URL is a redirect."""

    asked: list[str] = []

    def do_GET(self) -> None:
        path, _, target = self.path.partition("?")
        self.asked.append(self.headers.get("Range", ""))
        if path == "/to":
            self.send_response(302)
            self.send_header("Location", target)
            return self.end_headers()
        if path == "/missing":
            return self.send_error(404, "gone \x1b[31m")
        start = 0 if path == "/whole" else int(self.headers.get("Range", "bytes=0-")[6:-1])
        if start >= len(DATA):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            first = 0 if path == "/wrong_part" else start
            self.send_header("Content-Range", f"bytes {first}-{len(DATA) - 1}/{len(DATA)}")
        if path != "/endless":
            self.send_header("Content-Length", str(5 << 40 if path == "/huge" else len(DATA) - start))
        self.end_headers()
        try:
            for _ in range(1 << 14 if path == "/endless" else 1):
                self.wfile.write(DATA[start:1000] if path == "/broken" else DATA[start:])
        except OSError:                                          # the client has seen enough
            pass

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Weights) as http:
        Weights.asked = []
        threading.Thread(target=lambda: http.serve_forever(0.01), daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def readme(url: str, name: str = "w.caffemodel", sha1: str = SHA1) -> None:
    Path("model").mkdir(exist_ok=True)
    checksum = f"sha1: {sha1}" if sha1 else "license: none"
    fields = f"name: Small net\ncaffemodel: {name}\ncaffemodel_url: {url}\n{checksum}"
    Path("model/readme.md").write_text(f"---\n{fields}\n---\n\nText.\n")


def files() -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path().rglob("*") if path.is_file()}


def refused(message: str, capsys: pytest.CaptureFixture[str], *flags: str) -> None:
    """The command fails with this message, and no file is there that was not, or is another."""
    before = files()
    assert main(["download_model", "model", *flags]) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err and "\x1b[31m" not in err, err
    assert files() == before


def test_weights_are_downloaded_and_their_checksum_is_shown(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/to?{server}/w", sha1=SHA1.upper())
    assert main(["download_model", "model", "-allow_http"]) == 0
    assert capsys.readouterr().out == f"model/w.caffemodel: downloaded, 5000 bytes\nSHA-1 {SHA1}, that of the readme\n"
    assert Path("model/w.caffemodel").read_bytes() == DATA
    assert sorted(os.listdir("model")) == ["readme.md", "w.caffemodel"]
    assert main(["download_model", "model"]) == 0                # nothing is asked for any more
    assert capsys.readouterr().out.startswith("model/w.caffemodel: was there already\nSHA-1")
    readme(f"{server}/w", "other.caffemodel", "")
    assert main(["download_model", "model", "-allow_http"]) == 0
    assert f"SHA-1 {SHA1}; the readme gives none" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["../x.caffemodel", "/tmp/x.caffemodel", "sub/x.caffemodel", "x/", "..", ".",
                                  ".bashrc", "..\\x.caffemodel", "C:x", "x\x1b[31m", "x" * 300])
def test_only_a_bare_name_is_written(name: str, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/w", name)
    refused("caffemodel must be the name of a file in this folder, without a path; found ", capsys, "-allow_http")
    assert not Weights.asked


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/w", "data:text/plain,w", "//127.0.0.1/w",
                                 "w.caffemodel", "https:///w", "https://[1/w", "HTTPS://\x1b[31m"])
@pytest.mark.parametrize("flags", [(), ("-allow_http",)])
def test_only_https_is_asked(url: str, flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    readme(url)
    refused(f"only https{' and http' if flags else ''} addresses are downloaded from, found ", capsys, *flags)


def test_http_needs_its_flag(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/w")
    refused("-allow_http allows http, where others can change what arrives", capsys)
    assert not Weights.asked


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/w", "gopher://127.0.0.1/w"])
def test_redirects_stay_with_the_allowed_schemes(target: str, server: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/to?{target}")
    ours = target.startswith("ftp")                              # the others are refused by urllib
    refused("only https and http addresses are downloaded from" if ours else "not allowed", capsys, "-allow_http")


def test_a_redirect_to_another_scheme_is_refused(server: str) -> None:
    """As from https to http, the other way round: the server has no certificate."""
    with pytest.raises(DataError, match="only http addresses are downloaded from, found 'https://127.0.0.1:1/w'"):
        download(f"{server}/to?https://127.0.0.1:1/w", Path("w"), schemes=("http",))
    assert not files()


@pytest.mark.parametrize("path, message", [
    ("huge", "it is larger than the limit of 1 MiB: -max_size raises it"),
    ("endless", "it is larger than the limit of 1 MiB"), ("missing", "cannot download it: gone")])
def test_what_is_too_large_or_not_there_leaves_nothing(path: str, message: str, server: str,
                                                       capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/{path}")
    refused(message, capsys, "-allow_http", "-max_size", "1")


def test_more_than_the_disk_holds_is_not_begun(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/huge")
    refused("it has 5497558138880 bytes; ", capsys, "-allow_http", "-max_size", str(6 << 20))


@pytest.mark.parametrize("sha1, message", [
    ("0" * 40, f"what was downloaded has the SHA-1 {SHA1}; it should be {'0' * 40}"),
    ("1234", "sha1 must be 40 hexadecimal digits, found '1234'"), ("d" * 32, "sha1 must be 40")])
def test_a_wrong_checksum_leaves_nothing(sha1: str, message: str, server: str,
                                         capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/w", sha1=sha1)
    refused(message, capsys, "-allow_http")


def test_what_is_there_is_not_overwritten(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/w")
    Path("model/w.caffemodel").write_bytes(b"mine")
    found = hashlib.sha1(b"mine").hexdigest()
    refused(f"model/w.caffemodel: has the SHA-1 {found}; it should be {SHA1}", capsys, "-allow_http")
    Path("model/w.caffemodel").unlink()
    Path("model/w.caffemodel").mkdir()
    refused("model/w.caffemodel: cannot be read: Is a directory", capsys, "-allow_http")


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_part_that_is_another_file_is_left_alone(link: object, server: str,
                                                   capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/w")
    Path("mine").write_bytes(b"mine")
    link(Path("mine").absolute(), "model/w.caffemodel.part")     # type: ignore[operator]
    refused("model/w.caffemodel.part: is not what an earlier download left: remove it", capsys, "-allow_http")
    assert Path("mine").read_bytes() == b"mine"


@pytest.mark.parametrize("path, asks", [("w", ["", "bytes=1000-"]), ("whole", ["", "bytes=1000-"])])
def test_what_broke_off_goes_on(path: str, asks: list[str], server: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Also where the server sends all of it again."""
    readme(f"{server}/broken")
    assert main(["download_model", "model", "-allow_http"]) == 1
    assert "calling brew download_model model again goes on from the 1000 bytes that arrived" in capsys.readouterr().err
    assert sorted(os.listdir("model")) == ["readme.md", "w.caffemodel.part"]
    readme(f"{server}/{path}")
    assert main(["download_model", "model", "-allow_http"]) == 0
    assert Path("model/w.caffemodel").read_bytes() == DATA and Weights.asked == asks
    assert sorted(os.listdir("model")) == ["readme.md", "w.caffemodel"]


def test_another_part_than_the_one_asked_for_is_not_joined(server: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme(f"{server}/wrong_part")
    Path("model/w.caffemodel.part").write_bytes(DATA[:1234])
    refused("the server sent the part 'bytes 0-4999/5000' instead of that from byte 1234 on", capsys, "-allow_http")


def test_a_part_that_is_whole_needs_only_its_name(server: str) -> None:
    readme(f"{server}/w")
    Path("model/w.caffemodel.part").write_bytes(DATA)
    assert main(["download_model", "model", "-allow_http"]) == 0
    assert sorted(os.listdir("model")) == ["readme.md", "w.caffemodel"]


def test_without_a_checksum_it_begins_anew(server: str) -> None:
    """Nobody would notice the first part of another version."""
    readme(f"{server}/w", sha1="")
    Path("model/w.caffemodel.part").write_bytes(b"x" * 1234)
    assert main(["download_model", "model", "-allow_http"]) == 0
    assert Path("model/w.caffemodel").read_bytes() == DATA and Weights.asked == [""]


@pytest.mark.parametrize("text, message", [
    ("no block\n", "does not begin with a block"), ("---\ncaffemodel: w.caffemodel\n---\n", "lacks caffemodel_url")])
def test_a_readme_that_names_nothing(text: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    readme("")
    Path("model/readme.md").write_text(text)
    refused(message, capsys)
