"""Protobuf text (prototxt): a reader that knows where everything stands, and a writer.

Reading follows the text format that Caffe's parser accepts: `name: value`, `name { }`, `name < >`, lists in brackets,
comments from # on, strings in either quote and in several pieces.
"""
from __future__ import annotations

import logging
import re
from bisect import bisect_right
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from . import forks
from .errors import Position, PrototxtError, excerpt, nearest, read_bytes

M = TypeVar("M", bound=Message)
log = logging.getLogger("brew")

TOKEN = re.compile(r"""
    (?:[\s]+|\#[^\n]*)*                                    # skipped
    (?:(?P<word>[A-Za-z_]\w*)
     | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?))(?![\w.])
     | (?P<minus>-\s*(?=[A-Za-z]))                         # -inf, -nan
     | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
     | (?P<sign>[{}<>\[\]:;,])
     | (?P<bad>.)
     | (?P<end>\Z))""", re.X | re.S)
CLOSING = {"{": "}", "<": ">"}
BOOL = {"true": True, "t": True, "True": True, "1": True, "false": False, "f": False, "False": False, "0": False}
INTS = {FieldDescriptor.CPPTYPE_INT32: (-2**31, 2**31 - 1), FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
        FieldDescriptor.CPPTYPE_INT64: (-2**63, 2**63 - 1), FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1)}
FLOATS = (FieldDescriptor.CPPTYPE_FLOAT, FieldDescriptor.CPPTYPE_DOUBLE)
LAYERS = ("LayerParameter", "V1LayerParameter")


def parse(text: str, message: M, file: str = "<text>", errors: list[PrototxtError] | None = None) -> M:
    """Fill `message` from prototxt `text` and return it; every layer gets its `position` (file, line, column).

    Raises PrototxtError with place, line and the nearest right name. With a list `errors`, fields that do not exist go
    there instead and reading goes on.
    """
    _Reader(text, file, errors=errors).message(message, "", "")
    return message


def parse_file(path: str, message: M, errors: list[PrototxtError] | None = None) -> M:
    """Fill `message` from the prototxt file at `path`; `errors` as in parse(). Raises PrototxtError."""
    data = read_bytes(path, f"this {message.DESCRIPTOR.name} file", PrototxtError)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if b"\0" in data:
            raise PrototxtError("this is no text file; a prototxt was expected", Position(str(path))) from None
        text = data.decode("latin-1")
    return parse(text, message, str(path), errors)


def to_text(message: Message, weights: bool = True) -> str:
    """Protobuf text of `message`, layers without their `position`, and without `weights` without their blobs."""
    copy = type(message)()
    copy.CopyFrom(message)
    strip_positions(copy)
    if not weights:
        _strip(copy, "blobs")
    return text_format.MessageToString(copy)


def strip_positions(message: Message) -> None:
    """Remove the `position` of every layer below `message`: it says where text stood, and is not part of the net."""
    _strip(message, "position")


def _strip(message: Message, name: str) -> None:
    """Clear this field of every layer below `message`."""
    if message.DESCRIPTOR.name in LAYERS:
        message.ClearField(name)
        return
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.name in ("NetParameter", *LAYERS):
            for item in [value] if isinstance(value, Message) else value:
                _strip(item, name)


class _Reader:
    """One pass over a text; `self.kind`, `self.token` and `self.at` are the token ahead and its offset."""

    def __init__(self, text: str, file: str, positions: dict[str, Position] | None = None, quiet: bool = False,
                 errors: list[PrototxtError] | None = None):
        self.text, self.file, self.positions, self.quiet = text, file, positions, quiet
        self.errors = errors                           # collects what a reader can step over; None: the first one is raised
        self.lines = [0] + [m.end() for m in re.finditer("\n", text)]
        self.tokens: Iterator[re.Match[str]] = TOKEN.finditer(text)
        self.stack: list[tuple[Message, str]] = []     # the messages being read, each with the field that holds it
        self.again: dict[int, tuple[Message, str, int]] = {}       # by depth: messages that are read a second time
        self.warned: set[str] = set()
        self.next()

    def next(self) -> str:
        """Step to the next token; returns the one left behind."""
        left = getattr(self, "token", "")
        match = next(self.tokens)
        self.kind = match.lastgroup or "end"
        self.token, self.at = match[self.kind], match.start(self.kind)
        if self.kind == "bad":
            what = "a string that does not end on its line" if self.token in "\"'" else f"the character {self.token!r}"
            self.fail(f"{what} has no place here")
        return left

    # ------------------------------------------------------------------------------------------------ fields

    def message(self, message: Message, closing: str, path: str) -> None:
        opened = self.at
        self.stack.append((message, path.rpartition(".")[2]))
        fields: Any = message.DESCRIPTOR.fields_by_name
        while self.token != closing or self.kind == "string":
            if self.kind == "end":
                if closing:
                    self.fail(f'the file ends, and a "{closing}" is missing',
                              hint=f"\n  the message it would close begins on line {self.place(opened).line}")
                break
            if self.kind != "word":
                self.fail(f"expected the name of a field, found {self.token!r}")
            at, name = self.at, self.next()
            field = fields.get(name)
            if field is None or forks.is_forks(field):
                self.unknown(message, name, at)
            else:
                self.field(message, field, f"{path}.{name}" if path else name, at)
            if self.kind == "sign" and self.token in ",;":
                self.next()
        if closing:
            self.next()
        self.stack.pop()

    def field(self, message: Message, field: FieldDescriptor, path: str, at: int) -> None:
        repeated = field.is_repeated
        if not repeated and message.HasField(field.name) and field.message_type is None:
            self.given_twice(field.name, at)
        is_message = field.message_type is not None
        if self.token == ":" and self.kind == "sign":
            self.next()
        elif not is_message:
            self.fail(f'expected ":" after "{field.name}", found {self.token!r}' if self.kind != "end"
                      else f'the file ends where the value of "{field.name}" should be')
        if not repeated and self.kind == "sign" and self.token == "[":
            several = ": several GPUs are not supported yet" if field.name == "device_id" else ""
            self.fail(f'"{field.name}" takes one value, and this is a list{several}', at, field.name)
        if repeated and self.kind == "sign" and self.token == "[":
            self.next()
            while self.token != "]":
                self.value(message, field, path, self.at)
                if self.token == ",":
                    self.next()
                elif self.token != "]":
                    self.fail(f'expected "," or "]" in the list of "{field.name}", found {self.token!r}')
            self.next()
        else:
            self.value(message, field, path, at)

    def value(self, message: Message, field: FieldDescriptor, path: str, at: int) -> None:
        if field.is_repeated:
            path += f"[{len(getattr(message, field.name))}]"
        if self.positions is not None:
            self.positions[path] = self.place(at)
        if field.message_type is None:
            value = self.scalar(field)
            if value is not None:
                if field.is_repeated:
                    getattr(message, field.name).append(value)
                else:
                    setattr(message, field.name, value)
            return
        if self.kind != "sign" or self.token not in CLOSING:
            self.fail(f'"{field.name}" is a message: expected "{{", found {self.token!r}')
        if not field.is_repeated and message.HasField(field.name):
            self.again[len(self.stack)] = message, field.name, at
        child = getattr(message, field.name)
        child = child.add() if field.is_repeated else child
        child.SetInParent()
        if field.message_type.name in LAYERS:
            place = self.place(at)
            child.position.file, child.position.line, child.position.column = place.file, place.line, place.column
        self.message(child, CLOSING[self.next()], path)
        self.again.pop(len(self.stack), None)

    def given_twice(self, name: str, at: int) -> NoReturn:
        """A field of a message that is there already: of one that was begun anew, the message is what was given twice."""
        message = self.stack[-1][0]
        if self.again:
            message, name, at = self.again[max(self.again)]
        fork = forks.REPEATED.get((message.DESCRIPTOR.name, name))
        self.fail(f'"{name}" is given twice, and may be given once', at, name,
                  f"\n  {fork} takes several; brew takes one" if fork else "")

    def scalar(self, field: FieldDescriptor) -> Any:
        at, kind, token = self.at, self.kind, self.token
        if kind == "sign" or kind == "end":
            self.fail(f'expected a value for "{field.name}", found {token!r}')
        self.next()
        if kind == "minus":
            token = "-" + self.next()
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            if kind != "string":
                self.fail(f'"{field.name}" is a string and needs quotes: "{token}"', at, token)
            data = _unquote(token)
            while self.kind == "string":
                data += _unquote(self.next())
            return data.decode("utf-8", "replace") if field.type == FieldDescriptor.TYPE_STRING else data
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            if token not in BOOL:
                self.fail(f'"{field.name}" is true or false, found {token}', at, token)
            return BOOL[token]
        if field.cpp_type == FieldDescriptor.CPPTYPE_ENUM:
            return self.enum(field, token, at)
        try:
            if field.cpp_type in FLOATS:
                return float(token.rstrip("fF") if token.lower() not in ("inf", "-inf") else token)
            low, high = INTS[field.cpp_type]
            number = int(token, 16 if "x" in token.lower() else 8 if re.fullmatch(r"[-+]?0\d+", token) else 10)
        except ValueError:
            kind_of = "a number" if field.cpp_type in FLOATS else "a whole number"
            self.fail(f'"{field.name}" is {kind_of}, found {token}', at, token)
        if not low <= number <= high:
            self.fail(f'"{field.name}" must lie between {low} and {high}, found {number}', at, token)
        return number

    def enum(self, field: FieldDescriptor, token: str, at: int) -> int | None:
        values: Any = field.enum_type
        ours = {value.name: value.number for value in values.values if value.number not in forks.NUMBERS}
        if token in ours:
            return int(ours[token])
        if re.fullmatch(r"\d+", token) and int(token) in values.values_by_number:
            return int(token)
        message = self.stack[-1][0]
        if forks.enum_value(message, field.name, token):
            self.warn(f'{field.name}: {token} is known from forks of Caffe only', at)
            return None
        whose = " (forks of Caffe have it, brew does not)" if token in values.values_by_name else ""
        self.fail(f'"{field.name}" has no value {token}{whose}', at, token, f"\n  it can be {', '.join(ours)}" + ("" if whose else nearest(token, ours)))

    # ------------------------------------------------------------------------------- what the schema does not have

    def unknown(self, message: Message, name: str, at: int) -> None:
        """A field that the schema lacks: one that forks of Caffe have is translated or passed over, else an error."""
        descriptor: Any = message.DESCRIPTOR
        kind = descriptor.name
        if name in forks.ALIASES.get(kind, {}):
            meaning, set_fields = forks.ALIASES[kind][name]
            if self.token == ":":
                self.next()
            token = self.next()
            try:
                set_fields(message, token)
            except (KeyError, ValueError):
                self.fail(f'"{name}" cannot be {token}', at, name)
            self.warn(f"{name} is known from forks of Caffe only; read as {meaning}", at)
        elif name in descriptor.fields_by_name or forks.knows(kind, name):
            if self.token == ":":
                self.next()
            text = None if self.kind == "sign" else self.token
            self.skip_value()
            reason = forks.refusal(kind, name, descriptor.fields_by_name.get(name), text)
            if not reason or self.of_a_fork():                # of a layer that is refused by its type
                self.warn(f"{name} is known from forks of Caffe only and is ignored", at)
                return
            self.refuse(self.error(f'brew has no "{name}", which is known from forks of Caffe: {reason}', at, name))
        else:
            ours = [field.name for field in descriptor.fields if not forks.is_forks(field)]
            self.refuse(self.error(f'{kind} has no field "{name}"', at, name, forks.NOT_NETS.get((kind, name)) or nearest(name, ours)))
            self.skip_value()

    def of_a_fork(self) -> bool:
        """Whether the reader is in a layer of a type that only forks have."""
        layers: list[Any] = [message for message, _ in self.stack if message.DESCRIPTOR.name in LAYERS]
        names = [getattr(layer, "type_name", "") or layer.type for layer in layers[-1:]]
        return any(name in forks.TYPES for name in names)

    def refuse(self, error: PrototxtError) -> None:
        """Raise it, or collect it where reading goes on."""
        if self.errors is None:
            raise error
        self.errors.append(error)

    def skip_value(self) -> None:
        """Step over the value of a field whose type is not known."""
        if self.token == ":" and self.kind == "sign":
            self.next()
        if self.kind != "sign":
            minus = self.kind == "minus"
            last = self.kind
            self.next()
            if minus:
                self.next()
            while last == "string" and self.kind == "string":
                self.next()
            return
        open_brackets = 0
        while True:
            if self.kind == "end":
                self.fail("the file ends inside a message")
            if self.kind == "sign":
                open_brackets += (self.token in "{<[") - (self.token in "}>]")
            self.next()
            if open_brackets <= 0:
                return

    # ------------------------------------------------------------------------------------------- places and errors

    def place(self, at: int) -> Position:
        line = bisect_right(self.lines, at)
        return Position(self.file, line, at - self.lines[line - 1] + 1)

    def layer(self) -> str:
        """`layer "pool1" (type "Pooling"), pooling_param`: where in the message tree the reader is."""
        words = []
        for message, field in self.stack:
            if message.DESCRIPTOR.name in LAYERS:
                layer: Any = message
                kind: Any = layer.DESCRIPTOR.fields_by_name["type"]
                value: Any = layer.type if layer.HasField("type") else ""
                if value != "" and kind.enum_type is not None:
                    value = kind.enum_type.values_by_number[value].name
                name = f'layer "{layer.name}"' if layer.name else "a layer without a name yet"
                words = [name + (f' (type "{value}")' if value else "")]
            elif field:
                words.append(re.sub(r"\[\d+\]", "", field))
        return ", ".join(words)

    def warn(self, text: str, at: int) -> None:
        layer = self.layer()
        key = f"{text} {layer}"
        if key not in self.warned and not self.quiet:
            self.warned.add(key)
            log.warning("%s: %s%s", self.place(at), text, f" (in {layer})" if layer else "")

    def fail(self, rule: str, at: int | None = None, token: str | None = None, hint: str = "") -> NoReturn:
        raise self.error(rule, self.at if at is None else at, self.token if token is None else token, hint)

    def error(self, rule: str, at: int, token: str, hint: str = "") -> PrototxtError:
        place = self.place(at)
        line = self.text[self.lines[place.line - 1]:].partition("\n")[0]
        where = self.layer()
        return PrototxtError(rule + excerpt(line, place, len(token)) + (f"\n  in {where}" if where else "") + hint, place)


ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|(.))", re.S)


def _unquote(token: str) -> bytes:
    """The bytes of a quoted string: octal, hexadecimal and letter escapes, everything else as UTF-8."""
    if "\\" not in token:
        return token[1:-1].encode()
    parts, end = [], 1
    for m in ESCAPE.finditer(token, 1, len(token) - 1):
        parts.append(token[end:m.start()].encode())
        number = int(m[1], 8) if m[1] else int(m[2], 16) if m[2] else None
        parts.append(ESCAPES.get(m[3], m[3]).encode() if number is None else bytes([number & 255]))
        end = m.end()
    return b"".join([*parts, token[end:-1].encode()])


def locate(layer: Message, field: str = "") -> Position | None:
    """Where `layer` (or `field` in it, "pooling_param.pad") stands, read anew from its file; None if it has no place."""
    place: Any = getattr(layer, "position", None)
    if place is None or not place.file:
        return None
    here = Position(place.file, place.line, place.column)
    if not field or not place.line:
        return here
    try:
        positions: dict[str, Position] = {}
        text = open(place.file, encoding="utf-8-sig", errors="replace").read()
        from .brew_pb2 import NetParameter, SolverParameter
        for message in (NetParameter(), SolverParameter()):
            try:
                _Reader(text, place.file, positions, quiet=True, errors=[]).message(message, "", "")
                break
            except PrototxtError:
                positions.clear()
    except OSError:
        return here                              # a net from memory, or a file that is gone
    start = next((path for path, p in positions.items() if p == here), None)
    return positions.get(f"{start}.{field}") or positions.get(f"{start}.{field}[0]") or here
