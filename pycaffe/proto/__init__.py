"""caffe.proto: the messages that prototxt, weights and records are made of."""
from __future__ import annotations

from . import caffe_pb2 as caffe_pb2
