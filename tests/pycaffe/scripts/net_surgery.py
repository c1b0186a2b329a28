"""A classifier made fully convolutional by copying flat parameters, as the net surgery notebook."""
import numpy as np

import caffe

BODY = """
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" convolution_param { num_output: 4 kernel_size: 3 stride: 2 weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.1 } } }
layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" }
"""
FC = """layer { name: "fc6" type: "InnerProduct" bottom: "conv1" top: "fc6" inner_product_param { num_output: 6 weight_filler { type: "xavier" } } }
layer { name: "fc8" type: "InnerProduct" bottom: "fc6" top: "fc8" inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "prob" type: "Softmax" bottom: "fc8" top: "prob" }"""
CONV = """layer { name: "fc6-conv" type: "Convolution" bottom: "conv1" top: "fc6-conv" convolution_param { num_output: 6 kernel_size: 5 } }
layer { name: "fc8-conv" type: "Convolution" bottom: "fc6-conv" top: "fc8-conv" convolution_param { num_output: 3 kernel_size: 1 } }
layer { name: "prob" type: "Softmax" bottom: "fc8-conv" top: "prob" }"""
for name, size, rest in (("full", 11, FC), ("conv", 15, CONV)):
    with open(name + ".prototxt", "w") as f:
        f.write("input: 'data'\n" + "".join("input_dim: %d\n" % d for d in (1, 2, size, size)) + BODY + rest)
net = caffe.Net("full.prototxt", caffe.TEST)
net.save("full.caffemodel")
params = ["fc6", "fc8"]
fc_params = {pr: (net.params[pr][0].data, net.params[pr][1].data) for pr in params}
for fc in params:
    print("{} weights are {} dimensional and biases are {} dimensional".format(fc, fc_params[fc][0].shape, fc_params[fc][1].shape))
net_full_conv = caffe.Net("conv.prototxt", "full.caffemodel", caffe.TEST)
params_full_conv = ["fc6-conv", "fc8-conv"]
conv_params = {pr: (net_full_conv.params[pr][0].data, net_full_conv.params[pr][1].data) for pr in params_full_conv}
for pr, pr_conv in zip(params, params_full_conv):
    conv_params[pr_conv][0].flat = fc_params[pr][0].flat       # flat unrolls the arrays
    conv_params[pr_conv][1][...] = fc_params[pr][1]
net_full_conv.save("conv.caffemodel")
again = caffe.Net("conv.prototxt", "conv.caffemodel", caffe.TEST)
image = np.random.RandomState(0).rand(2, 15, 15).astype(np.float32)
out = again.forward_all(data=np.asarray([image]))
assert out["prob"].shape == (1, 3, 3, 3)
for i in range(3):
    for j in range(3):
        window = net.forward_all(data=image[None, :, 2 * i:2 * i + 11, 2 * j:2 * j + 11])
        np.testing.assert_allclose(out["prob"][0, :, i, j], window["prob"][0], rtol=1e-4)
print("ok")
