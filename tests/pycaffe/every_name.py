import brew; brew.install_as_caffe()
import caffe, caffe.draw, caffe.coord_map, numpy as np; from caffe import layers as L, params as P; from contextlib import suppress
caffe.init_log(2, True); caffe.log("every name of pycaffe"); caffe.set_mode_cpu(); caffe.set_random_seed(1); watch = caffe.Timer(); watch.start(); print(caffe.__version__, caffe.layer_type_list()[:3])
with suppress(RuntimeError, AttributeError, ImportError): caffe.set_device(0); caffe.set_mode_gpu(); print(caffe.NCCL.new_uid())
caffe.set_solver_count(1); caffe.set_solver_rank(0); caffe.set_multiprocess(False); print(caffe.has_nccl(), caffe.solver_count(), caffe.solver_rank(), hasattr(caffe.NCCL, "bcast"))
class Twice(caffe.Layer):
    def setup(self, bottom, top): self.blobs.add_blob(1)
    def reshape(self, bottom, top): top[0].reshape(*bottom[0].shape)
    def forward(self, bottom, top): top[0].data[...] = 2 * bottom[0].data
    def backward(self, top, propagate_down, bottom): bottom[0].diff[...] = 2 * top[0].diff
n = caffe.NetSpec(); n.data, n.label = L.MemoryData(batch_size=2, channels=3, height=12, width=12, ntop=2); n.conv = L.Convolution(n.data, num_output=4, kernel_size=3, pad=1, weight_filler=dict(type="xavier"))
n.pool = L.Pooling(L.ReLU(n.conv, in_place=True), pool=P.Pooling.MAX, kernel_size=2, stride=2); n.twice = L.Python(n.pool, module="__main__", layer="Twice"); n["ip"] = L.InnerProduct(n.twice, num_output=2, weight_filler=dict(type="xavier"))
n.loss = L.SoftmaxWithLoss(n.ip, n.label); open("net.prototxt", "w").write(str(n.to_proto())); deploy = caffe.NetSpec(); deploy.data = L.Input(shape=dict(dim=[2, 3, 12, 12])); deploy.prob = L.Softmax(L.InnerProduct(deploy.data, name="fc", num_output=2, weight_filler=dict(type="xavier")))
open("deploy.prototxt", "w").write(str(deploy.to_proto())); print(len(caffe.to_proto(deploy.prob).layer)); caffe.draw.draw_net_to_file(n.to_proto(), "net.svg", "LR"); print(len(caffe.draw.draw_net(n.to_proto(), "TB", "png", caffe.TEST, True)), hasattr(caffe.draw, "get_pydot_graph"))
up = L.Deconvolution(n.pool, convolution_param=dict(num_output=4, kernel_size=2, stride=2)); print(caffe.coord_map.coord_map_from_to(up, n.data), caffe.coord_map.crop(up, n.data).to_proto(), caffe.coord_map.UndefinedMapException, caffe.coord_map.AxisMismatchException)
images, labels = np.random.RandomState(0).rand(4, 3, 12, 12).astype(np.float32), np.array([0, 1, 1, 0], np.float32)
for kind in (caffe.NesterovSolver, caffe.AdaGradSolver, caffe.RMSPropSolver, caffe.AdaDeltaSolver, caffe.AdamSolver, caffe.SGDSolver):
    open("solver.prototxt", "w").write(f'net: "net.prototxt" type: "{kind.__name__[:-6]}" base_lr: 0.1 lr_policy: "fixed" max_iter: 4 display: 0 snapshot_prefix: "s"' + (" momentum: 0.9" if kind in (caffe.NesterovSolver, caffe.AdamSolver, caffe.AdaDeltaSolver) else ""))
    s = kind("solver.prototxt"); s.net.set_input_arrays(images, labels); s.add_callback(lambda: None, lambda: None); s.step(2); s.apply_update(); s.solve(); s.snapshot(); s.restore("s_iter_4.solverstate"); print(kind.__name__, s.iter, s.lr, len(s.test_nets), s.param.max_iter, s.param.layer_wise_reduce)
net = caffe.get_solver("solver.prototxt").net; s.share_weights(net); net.share_with(s.net); net.set_input_arrays(images, labels); [getattr(net, when)(lambda layer: None) for when in ("before_forward", "after_forward", "before_backward", "after_backward")]
net.clear_param_diffs(); print(net.forward(["conv"], start="data", end="ip").keys(), net.forward(), net.backward(["conv"]).keys(), net.inputs, net.outputs, net.top_names["pool"], net.bottom_names["pool"], net.blob_loss_weights["loss"], net._layer_names[0], net._blob_names[0], len(net._blobs), len(net.layers), net.layer_dict["ip"].type)
b = net.blobs["conv"]; print(b.data.shape == tuple(b.shape), b.diff.any(), b.num, b.channels, b.height, b.width, b.count, hasattr(b, "_gpu_data_ptr"), hasattr(b, "_gpu_diff_ptr"), [blob.data.shape for blob in net.params["ip"]])
net.save("w.caffemodel"); net.save_hdf5("w.h5"); net.load_hdf5("w.h5"); net.copy_from("w.caffemodel"); d = caffe.Net("deploy.prototxt", caffe.TEST, level=0, stages=["x"], weights=None); d.save("d.caffemodel"); d = caffe.Net("deploy.prototxt", "d.caffemodel", caffe.TEST)
print(d.forward_all(data=images)["prob"].shape, len(d.forward_backward_all(diffs=["data"], data=images, **{d.outputs[0]: np.ones((4, 2), np.float32)}))); d.blobs["data"].reshape(3, 3, 12, 12); d.reshape(); caffe.Net("net.prototxt", caffe.TRAIN)
t = caffe.io.Transformer({"data": (1, 3, 12, 12)}); t.set_transpose("data", (2, 0, 1)); t.set_channel_swap("data", (2, 1, 0)); t.set_raw_scale("data", 255); t.set_mean("data", np.array([1., 2, 3])); t.set_input_scale("data", 0.1)
im = caffe.io.load_image("image.png", color=True); print(np.abs(t.deprocess("data", t.preprocess("data", im)) - caffe.io.resize_image(im, (12, 12))).max() < 1e-5, caffe.io.oversample([im], (12, 12)).shape)
datum, proto = caffe.io.array_to_datum(np.arange(12, dtype=np.uint8).reshape(3, 2, 2), 7), caffe.io.array_to_blobproto(images); print(caffe.io.datum_to_array(datum).shape, caffe.io.blobproto_to_array(proto).shape, len(caffe.io.blobprotovector_str_to_arraylist(caffe.io.arraylist_to_blobprotovector_str([images]))), isinstance(datum, caffe.proto.caffe_pb2.Datum))
print(caffe.Classifier("deploy.prototxt", "d.caffemodel", image_dims=(14, 14), mean=np.ones(3), input_scale=1.0, raw_scale=255, channel_swap=(2, 1, 0)).predict([im], oversample=True).shape); detector = caffe.Detector("deploy.prototxt", "d.caffemodel", context_pad=2)
detector.configure_crop(2); print(len(detector.detect_windows([("image.png", np.array([[0, 0, 10, 10]]))])), detector.crop(im, np.array([0, 0, 10, 10])).shape, hasattr(detector, "detect_selective_search")); watch.stop(); print("all names used in", watch.ms, "ms")
