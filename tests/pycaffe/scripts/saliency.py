"""Which pixels a class score depends on (Simonyan et al. 2013), beside finite differences."""
import sys

import numpy as np

import caffe

open("sal.prototxt", "w").write("""
input: "data" input_dim: 1 input_dim: 1 input_dim: 8 input_dim: 8
force_backward: true
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" std: 0.3 } } }
layer { name: "tanh" type: "TanH" bottom: "conv" top: "tanh" }
layer { name: "fc" type: "InnerProduct" bottom: "tanh" top: "fc" inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.2 } } }
layer { name: "prob" type: "Softmax" bottom: "fc" top: "prob" }""")
caffe.set_random_seed(int(sys.argv[1]))
net = caffe.Net("sal.prototxt", caffe.TEST)
image = np.random.RandomState(3).rand(1, 1, 8, 8).astype(np.float32)
transformer = caffe.io.Transformer({"data": net.blobs["data"].data.shape})
net.blobs["data"].data[...] = image
out = net.forward()
label = int(out["prob"].argmax())
caffe_label = np.zeros_like(net.blobs["fc"].data)
caffe_label[0, label] = 1
net.blobs["fc"].diff[...] = caffe_label
bw = net.backward(start="fc", end="conv")
saliency = np.abs(net.blobs["data"].diff[0]).max(0)
for y, x in ((0, 0), (3, 5), (7, 7)):
    scores = []
    for step in (-1e-2, 1e-2):
        net.blobs["data"].data[...] = image
        net.blobs["data"].data[0, 0, y, x] += step
        net.forward()
        scores.append(float(net.blobs["fc"].data[0, label]))
    slope = (scores[1] - scores[0]) / 2e-2
    assert abs(abs(slope) - saliency[y, x]) < 2e-2 * max(1, abs(slope)), (slope, saliency[y, x])
print("ok", saliency.shape, transformer.inputs["data"])
