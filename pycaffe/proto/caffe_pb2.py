"""caffe.proto.caffe_pb2: brew's messages, which are Caffe's and those of its forks."""
from __future__ import annotations

from ...proto.brew_pb2 import *  # noqa: F403
from ...proto.brew_pb2 import DESCRIPTOR as DESCRIPTOR
