"""Gradient ascent on what a layer responds to, over octaves, as deep dream notebooks do."""
import numpy as np
from scipy_free import zoom

import caffe
from caffe import layers as L
from caffe import params as P

n = caffe.NetSpec()
n.data = L.Input(shape=dict(dim=[1, 3, 32, 32]))
n.conv1 = L.Convolution(n.data, num_output=8, kernel_size=3, pad=1, weight_filler=dict(type="xavier"))
n.relu1 = L.ReLU(n.conv1, in_place=True)
n.pool1 = L.Pooling(n.relu1, pool=P.Pooling.MAX, kernel_size=2, stride=2)
n.conv2 = L.Convolution(n.pool1, num_output=6, kernel_size=3, pad=1, weight_filler=dict(type="xavier"))
text = str(n.to_proto())
with open("dream.prototxt", "w") as f:
    f.write("force_backward: true\n" + text)

if hasattr(caffe, "set_mode_gpu"):
    caffe.set_mode_gpu()                       # most scripts do; BREW_NO_GPU=warn
    caffe.set_device(0)
caffe.set_random_seed(4)
net = caffe.Net("dream.prototxt", caffe.TEST)
mean = np.float32([104.0, 117.0, 123.0])


def preprocess(img):
    return np.float32(np.rollaxis(img, 2)[::-1]) - mean[:, None, None]


def make_step(net, step_size=1.5, end="conv2", jitter=4, objective=None):
    src, dst = net.blobs["data"], net.blobs[end]
    ox, oy = np.random.RandomState(0).randint(-jitter, jitter + 1, 2)
    src.data[0] = np.roll(np.roll(src.data[0], ox, -1), oy, -2)
    net.forward(end=end)
    dst.diff[:] = dst.data                     # L2 objective
    net.backward(start=end)
    g = src.diff[0]
    src.data[:] += step_size / np.abs(g).mean() * g
    src.data[0] = np.roll(np.roll(src.data[0], -ox, -1), -oy, -2)
    return float((dst.data ** 2).sum())


img = np.random.RandomState(1).uniform(0, 255, (48, 48, 3))
octaves = [preprocess(img)]
for _ in range(2):
    octaves.append(zoom(octaves[-1], 1 / 1.4))
detail = np.zeros_like(octaves[-1])
for octave, base in enumerate(octaves[::-1]):
    h, w = base.shape[-2:]
    if octave > 0:
        detail = zoom(detail, shape=(h, w))
    net.blobs["data"].reshape(1, 3, h, w)      # resizes the net's input
    net.blobs["data"].data[0] = base + detail
    seen = [make_step(net) for _ in range(4)]
    assert seen[-1] > seen[0], seen
    assert net.blobs["conv2"].data.shape == (1, 6, -(-h // 2), -(-w // 2)), net.blobs["conv2"].data.shape
    detail = net.blobs["data"].data[0] - base
print("ok", net.blobs["data"].data.shape)
