"""Fast R-CNN's way: a Python data layer that is given its roidb, and a solver wrapper that unnormalises before it saves."""
import json
import os

import numpy as np

import caffe
from caffe.proto import caffe_pb2
from google.protobuf import text_format


class RoIDataLayer(caffe.Layer):
    def _shuffle_roidb_inds(self):
        self._perm = self._rng.permutation(np.arange(len(self._roidb)))
        self._cur = 0

    def set_roidb(self, roidb):
        self._roidb = roidb
        self._shuffle_roidb_inds()

    def setup(self, bottom, top):
        layer_params = json.loads(self.param_str_)             # the old name
        self._rng = np.random.RandomState(0)
        self._num_classes = layer_params["num_classes"]
        self._name_to_top_map = {"data": 0, "rois": 1, "labels": 2}
        top[0].reshape(1, 3, 20, 20)
        top[1].reshape(1, 5)
        top[2].reshape(1)

    def forward(self, bottom, top):
        if self._cur >= len(self._roidb):
            self._shuffle_roidb_inds()
        entry = self._roidb[self._perm[self._cur]]
        self._cur += 1
        for name, blob in (("data", entry["image"][None]), ("rois", entry["rois"]), ("labels", entry["labels"])):
            top[self._name_to_top_map[name]].reshape(*blob.shape)
            top[self._name_to_top_map[name]].data[...] = blob.astype(np.float32, copy=False)

    def backward(self, top, propagate_down, bottom):
        """This layer does not propagate gradients."""

    def reshape(self, bottom, top):
        """Reshaping happens during the call to forward."""


class SolverWrapper(object):
    def __init__(self, solver_prototxt, roidb, output_dir):
        self.output_dir = output_dir
        self.solver = caffe.SGDSolver(solver_prototxt)
        self.solver_param = caffe_pb2.SolverParameter()
        with open(solver_prototxt, "rt") as f:
            text_format.Merge(f.read(), self.solver_param)
        self.solver.net.layers[0].set_roidb(roidb)

    def snapshot(self):
        net = self.solver.net
        orig = net.params["cls_score"][0].data.copy()
        net.params["cls_score"][0].data[...] = net.params["cls_score"][0].data * 2
        filename = os.path.join(self.output_dir, self.solver_param.snapshot_prefix + "_iter_{:d}".format(self.solver.iter) + ".caffemodel")
        net.save(str(filename))
        net.params["cls_score"][0].data[...] = orig
        return filename

    def train_model(self, max_iters):
        losses = []
        while self.solver.iter < max_iters:
            self.solver.step(1)
            losses.append(float(self.solver.net.blobs["loss_cls"].data))
        return losses, self.snapshot()


if __name__ == "__main__":
    rng = np.random.RandomState(1)
    roidb = []
    for i in range(6):
        image = rng.rand(3, 20, 20).astype(np.float32)
        image[:, 2:9, 2:9] += 3
        k = rng.randint(1, 4)
        rois = np.array([[0, 2, 2, 8, 8]] * k + [[0, 11, 11, 18, 18]], np.float32)
        roidb.append(dict(image=image, rois=rois, labels=np.array([1] * k + [0], np.float32)))
    open("roi.prototxt", "w").write("""
layer { name: "data" type: "Python" top: "data" top: "rois" top: "labels" python_param { module: "roi_layer" layer: "RoIDataLayer" param_str: '{"num_classes": 2}' } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 4 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "ROIPooling" bottom: "conv" bottom: "rois" top: "pool" roi_pooling_param { pooled_h: 3 pooled_w: 3 spatial_scale: 1 } }
layer { name: "cls_score" type: "InnerProduct" bottom: "pool" top: "cls_score" inner_product_param { num_output: 2 weight_filler { type: "gaussian" std: 0.01 } } }
layer { name: "loss_cls" type: "SoftmaxWithLoss" bottom: "cls_score" bottom: "labels" top: "loss_cls" }""")
    open("roi_solver.prototxt", "w").write('train_net: "roi.prototxt" base_lr: 0.01 lr_policy: "fixed" momentum: 0.9 display: 0 snapshot: 0 snapshot_prefix: "frcnn" random_seed: 2')
    wrapper = SolverWrapper("roi_solver.prototxt", roidb, ".")
    losses, path = wrapper.train_model(40)
    assert np.mean(losses[-6:]) < 0.3 * np.mean(losses[:3]), losses
    saved = caffe.Net("roi.prototxt", path, caffe.TRAIN)
    np.testing.assert_allclose(saved.params["cls_score"][0].data, 2 * wrapper.solver.net.params["cls_score"][0].data, rtol=1e-6)
    assert type(saved.layers[0]).__name__ == "RoIDataLayer" and saved.layer_dict["data"]._num_classes == 2
    print("ok", path)
