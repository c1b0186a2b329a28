"""docs/layers is what the docstrings and the schema say, and the examples in it are read."""
from __future__ import annotations

from pathlib import Path

import pytest

import brew
from brew.proto import parse, pb
from brew.tools.layer_docs import example, pages

DOCS = Path(__file__).resolve().parents[2] / "docs" / "layers"


@pytest.mark.parametrize("name", sorted(pages()))
def test_the_page_is_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text() == pages()[name], "run python -m brew.tools.layer_docs docs/layers"


def test_there_are_no_pages_too_many() -> None:
    assert {p.name for p in DOCS.glob("*.md")} == set(pages())


@pytest.mark.parametrize("name", sorted(brew.LAYERS))
def test_the_example_is_a_layer_of_that_type(name: str) -> None:
    net = parse(example(name), pb.NetParameter())
    assert [layer.type for layer in net.layer] == [name]
