"""Layers in Python, as users of Caffe write them: imported by the nets of the tests."""
from __future__ import annotations

import caffe


class Tenfold(caffe.Layer):                                        # type: ignore[misc]
    def setup(self, bottom, top):  # type: ignore[no-untyped-def]
        pass

    def reshape(self, bottom, top):  # type: ignore[no-untyped-def]
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):  # type: ignore[no-untyped-def]
        top[0].data[...] = 10 * bottom[0].data

    def backward(self, top, propagate_down, bottom):  # type: ignore[no-untyped-def]
        bottom[0].diff[...] = 10 * top[0].diff


class Broken(caffe.Layer):                                         # type: ignore[misc]
    def setup(self, bottom, top):  # type: ignore[no-untyped-def]
        raise KeyError("nothing works here")


class Counting(caffe.Layer):                                       # type: ignore[misc]
    def setup(self, bottom, top):  # type: ignore[no-untyped-def]
        self.blobs.add_blob(1)
        self.blobs[0].data[0] = float(self.param_str or 0)

    def reshape(self, bottom, top):  # type: ignore[no-untyped-def]
        top[0].reshape(*bottom[0].data.shape)

    def forward(self, bottom, top):  # type: ignore[no-untyped-def]
        top[0].data[...] = bottom[0].data + self.phase

    def backward(self, top, propagate_down, bottom):  # type: ignore[no-untyped-def]
        self.blobs[0].diff[0] = 1
