"""Grad-CAM: where a convolution's maps speak for a class. The bright square is found again."""
import numpy as np

import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format

param = caffe_pb2.NetParameter()
text_format.Merge("""name: "cam" force_backward: true
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 16 dim: 16 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 2 kernel_size: 3 pad: 1 engine: CAFFE } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "gap" type: "Pooling" bottom: "conv" top: "gap" pooling_param { pool: AVE global_pooling: true } }
layer { name: "score" type: "InnerProduct" bottom: "gap" top: "score" inner_product_param { num_output: 2 } }""", param)
with open("cam.prototxt", "w") as f:
    f.write(text_format.MessageToString(param))
net = caffe.Net("cam.prototxt", caffe.TEST)
net.params["conv"][0].data[...] = np.array([1, -1], np.float32).reshape(2, 1, 1, 1) / 9
net.params["score"][0].data[...] = [[1, 0], [0, 1]]
image = np.zeros((16, 16), np.float32)
image[9:13, 2:6] = 1
net.blobs["data"].data[...] = image
out = net.forward()
assert out["score"].argmax() == 0
net.blobs["score"].diff[...] = [[1, 0]]
net.backward(start="score", end="conv")
weights = net.blobs["conv"].diff[0].mean(axis=(1, 2))
cam = np.maximum((weights[:, None, None] * net.blobs["conv"].data[0]).sum(0), 0)
rows, columns = np.nonzero(cam > 0.5 * cam.max())
assert (rows.min(), rows.max(), columns.min(), columns.max()) == (9, 12, 2, 5), (rows, columns)
caffe.draw.draw_net_to_file(param, "cam.png", "BT")
print("ok", cam.shape, [(name, blob.data.shape) for name, blob in net.blobs.items()][-1])
