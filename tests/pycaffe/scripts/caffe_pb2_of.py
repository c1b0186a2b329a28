"""How a server finds Caffe's messages."""
import caffe.proto.caffe_pb2 as caffe_pb2  # noqa: F401
