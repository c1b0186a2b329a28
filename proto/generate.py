"""Makes brew_pb2.py and brew_pb2.pyi from brew.proto and, for the fields of forks, forks.proto.

    pip install grpcio-tools==1.62.3 && python proto/generate.py

It needs nothing else of brew. Version 1.62 makes a module that every protobuf from 4.25 on can load.
"""
from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from google.protobuf import descriptor_pb2
from grpc_tools import protoc  # type: ignore[import-not-found]

HERE = Path(__file__).resolve().parent
OURS, THEIRS = ".brew.", ".brew.forks."


def descriptors(name: str) -> descriptor_pb2.FileDescriptorProto:
    with tempfile.NamedTemporaryFile() as file:
        if protoc.main(["protoc", f"-I{HERE}", f"--descriptor_set_out={file.name}", name]):
            sys.exit(1)
        files = descriptor_pb2.FileDescriptorSet()
        files.ParseFromString(Path(file.name).read_bytes())
    return files.file[0]


def merge(ours: descriptor_pb2.DescriptorProto, theirs: descriptor_pb2.DescriptorProto) -> None:
    """Add the fields, nested messages and enum values of a message of the same name."""
    for kind in ("nested_type", "enum_type"):
        known = {x.name: x for x in getattr(ours, kind)}
        for x in getattr(theirs, kind):
            if x.name not in known:
                getattr(ours, kind).add().CopyFrom(x)
            elif kind == "nested_type":
                merge(known[x.name], x)
            else:
                known[x.name].value.extend(x.value)
    ours.field.extend(theirs.field)


def at_home(message: descriptor_pb2.DescriptorProto) -> None:
    """All types of forks.proto are brew's now."""
    for field in message.field:
        if field.type_name.startswith(THEIRS):
            field.type_name = OURS + field.type_name.removeprefix(THEIRS)
    for nested in message.nested_type:
        at_home(nested)


def main() -> None:
    ours, theirs = descriptors("brew.proto"), descriptors("forks.proto")
    known = {message.name: message for message in ours.message_type}
    for message in theirs.message_type:
        at_home(message)
        if message.name in known:
            merge(known[message.name], message)
        else:
            ours.message_type.add().CopyFrom(message)
    ours.enum_type.extend(theirs.enum_type)
    with tempfile.NamedTemporaryFile() as file:
        Path(file.name).write_bytes(descriptor_pb2.FileDescriptorSet(file=[ours]).SerializeToString())
        if protoc.main(["protoc", f"--descriptor_set_in={file.name}", f"--python_out={HERE}", f"--pyi_out={HERE}",
                        "brew.proto"]):
            sys.exit(1)
    made = HERE / "brew_pb2.py"
    # Where pickle looks for a class.
    made.write_text(made.read_text().replace("DESCRIPTOR, 'brew_pb2', ", "DESCRIPTOR, __name__, "))


if __name__ == "__main__":
    main()
