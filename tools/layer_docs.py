"""Writes docs/layers: a page for each layer type, from its docstring and the comments of the schema.

    python -m brew.tools.layer_docs docs/layers
"""
from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from typing import Any

from .. import layers as layers
from ..engine.layer import LAYERS
from ..proto import brew_pb2 as pb
from ..proto import forks


def pages() -> dict[str, str]:
    """{file name: text} of all pages, and of the list of them."""
    found = {f"{name.lower()}.md": page(name) for name in sorted(own_names().values())}
    lines = [f"- [{name}]({own_names()[LAYERS[name]].lower()}.md): " + (first_sentence(name) if name in own_names().values() else f"another name for {own_names()[LAYERS[name]]}.")
             for name in sorted(LAYERS)]
    found["readme.md"] = "# Layers\n\nWritten by `python -m brew.tools.layer_docs docs/layers` from docstrings and schema.\n\n" + "\n".join(lines) + "\n"
    return found


def own_names() -> dict[type, str]:
    """Each layer class with its name; others under which it is registered are further names for it."""
    found: dict[type, str] = {}
    for name, cls in LAYERS.items():
        found.setdefault(cls, name)
    return found


def doc(name: str) -> str:
    return inspect.cleandoc(LAYERS[name].__doc__ or "")


def first_sentence(name: str) -> str:
    return " ".join(doc(name).split("\n\n")[0].split())


def page(name: str) -> str:
    """A page: the docstring, and the parameters with their defaults."""
    parts = doc(name).split("\n\n")
    others = [other for other, cls in LAYERS.items() if cls is LAYERS[name] and other != name]
    text = [f"# {name}", *([f"Also as {', '.join(others)}."] if others else []), parts[0]]
    for part in parts[1:]:
        lines = part.splitlines()
        is_code = all(not line or line.startswith("    ") for line in lines)
        text.append("```\n" + inspect.cleandoc("\n" + part) + "\n```" if is_code or re.match(r"^\S.*:? {2,}", lines[0]) else part)
    for field in parameters(name):
        text.append(f"## {field}\n\n" + table(field))
    return "\n\n".join(text) + "\n"


def example(name: str) -> str:
    """The prototxt example of a layer's docstring."""
    match = re.search(r"^(    layer \{.*?)(?:\n\n|\Z)", doc(name), re.S | re.M)
    return inspect.cleandoc("\n" + match[1]) if match else ""


def parameters(name: str) -> list[str]:
    """The parameter messages that a layer's file mentions, in the schema's order."""
    source = inspect.getsource(sys.modules[LAYERS[name].__module__])
    own = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower()
    fields = [f.name for f in pb.LayerParameter.DESCRIPTOR.fields if f.name.endswith("_param") and not forks.is_forks(f)]
    uses = [f for f in fields if re.search(rf"\b{f}\b", source)]
    shared = {"transform_param", "loss_param", "softmax_param", "data_param"}
    return [f for f in uses if f in shared or own.replace("_", "") == f.removesuffix("_param").replace("_", "") or len(uses) == 1]


def table(field: str) -> str:
    """Field, default and meaning of a parameter message, and of the messages in it."""
    message: Any = pb.LayerParameter.DESCRIPTOR.fields_by_name[field].message_type
    return "\n".join(["| field | default | meaning |", "| --- | --- | --- |", *rows(message, "")])


def rows(message: Any, prefix: str) -> list[str]:
    proto = Path(pb.__file__).with_name("brew.proto").read_text(encoding="utf-8")
    body = re.search(rf"^message {message.name} \{{(.*?)^\}}|^message {message.name} \{{(.*)\}}", proto, re.S | re.M)
    text = (body[1] or body[2]) if body else ""
    found = []
    for f in (f for f in message.fields if not forks.is_forks(f)):
        comment = re.search(rf"\b{f.name} = {f.number}\b[^;]*;[ \t]*//\s*(.*)", text)
        shown = "" if f.is_repeated or f.message_type or not f.has_default_value else f"`{shown_default(f)}`"
        found.append(f"| {prefix}{f.name} | {shown} | {comment[1] if comment else ''} |")
        if f.message_type is not None and f.message_type.name not in ("FillerParameter", "BlobShape"):
            found += rows(f.message_type, f"{prefix}{f.name}.")
    return found


def shown_default(f: Any) -> str:
    default = f.enum_type.values_by_number[f.default_value].name if f.enum_type else f.default_value
    return f"{default:g}" if isinstance(default, float) else str(default).lower() if isinstance(default, bool) else str(default)


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
