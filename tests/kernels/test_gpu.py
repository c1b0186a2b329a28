"""What is asked of CuPy, without a GPU."""
from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from brew.kernels.gpu import CupyBackend


def test_a_changed_header_is_compiled_again(tmp_path: Path) -> None:
    """CuPy's cache on disk knows a source by its text and the options alone."""
    backend = object.__new__(CupyBackend)
    backend.xp = SimpleNamespace(RawModule=lambda code, options: (code, options))
    source, header = tmp_path / "mine.cu", tmp_path / "mine.h"
    source.write_text('#include "mine.h"\n')
    texts = []
    for text in ("int one;", "int two;", "int one;"):
        header.write_text(text)
        texts.append(backend.module(str(source)))
    assert texts[0] == texts[2] != texts[1] and texts[0][0].startswith(source.read_text())
