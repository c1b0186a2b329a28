"""Nets for SSD written as its scripts write them: model_libs' style, train, test and deploy, and a solver."""
import math
import os
import stat

import caffe
from caffe import layers as L
from caffe import params as P
from caffe.proto import caffe_pb2
from google.protobuf import text_format


def ConvReLU(net, from_layer, out_layer, num_output, **kwargs):
    net[out_layer] = L.Convolution(net[from_layer], param=[dict(lr_mult=1, decay_mult=1), dict(lr_mult=2, decay_mult=0)],
                                   num_output=num_output, weight_filler=dict(type="xavier"), bias_filler=dict(type="constant", value=0), **kwargs)
    net[out_layer + "_relu"] = L.ReLU(net[out_layer], in_place=True)
    return out_layer


def Heads(net, from_layers, num_classes, sizes):
    locs, confs, priors = [], [], []
    for i, from_layer in enumerate(from_layers):
        for kind, outputs, store in (("loc", 4, locs), ("conf", num_classes, confs)):
            name = "{}_mbox_{}".format(from_layer, kind)
            net[name] = L.Convolution(net[from_layer], num_output=outputs * 4, kernel_size=3, pad=1, stride=1, weight_filler=dict(type="xavier"))
            net[name + "_perm"] = L.Permute(net[name], order=[0, 2, 3, 1])
            net[name + "_flat"] = L.Flatten(net[name + "_perm"], axis=1)
            store.append(net[name + "_flat"])
        name = "{}_mbox_priorbox".format(from_layer)
        net[name] = L.PriorBox(net[from_layer], net["data"], min_size=sizes[i], clip=False, variance=[0.1, 0.1, 0.2, 0.2], offset=0.5)
        net.update(name, {"max_size": sizes[i] * 2, "aspect_ratio": [2], "flip": True})
        priors.append(net[name])
    net["mbox_loc"] = L.Concat(*locs, axis=1)
    net["mbox_conf"] = L.Concat(*confs, axis=1)
    net["mbox_priorbox"] = L.Concat(*priors, axis=2)
    return [net["mbox_loc"], net["mbox_conf"], net["mbox_priorbox"]]


num_classes, resize = 3, 64
resize_param = dict(prob=1, resize_mode=P.Resize.WARP, height=resize, width=resize, interp_mode=[P.Resize.LINEAR, P.Resize.AREA])
train_transform = dict(mirror=True, mean_value=[104, 117, 123], resize_param=resize_param, emit_constraint=dict(emit_type=caffe_pb2.EmitConstraint.CENTER))
multibox = dict(loc_loss_type=P.MultiBoxLoss.SMOOTH_L1, conf_loss_type=P.MultiBoxLoss.SOFTMAX, loc_weight=1.0, num_classes=num_classes,
                share_location=True, match_type=P.MultiBoxLoss.PER_PREDICTION, overlap_threshold=0.5, use_prior_for_matching=True,
                background_label_id=0, use_difficult_gt=True, mining_type=P.MultiBoxLoss.MAX_NEGATIVE, neg_pos_ratio=3.0, neg_overlap=0.5,
                code_type=P.PriorBox.CENTER_SIZE)
det_out = dict(num_classes=num_classes, share_location=True, background_label_id=0, nms_param=dict(nms_threshold=0.45, top_k=400), keep_top_k=200,
               save_output_param=dict(output_directory="results", output_name_prefix="comp4_det_test_", output_format="VOC"),
               confidence_threshold=0.01, code_type=P.PriorBox.CENTER_SIZE)


def write(phase):
    net = caffe.NetSpec()
    if phase == "deploy":
        net.data = L.Input(shape=dict(dim=[1, 3, resize, resize]))
    else:
        include = dict(phase=caffe_pb2.Phase.Value(phase.upper()))
        net.data, net.label = L.AnnotatedData(name="data", annotated_data_param=dict(label_map_file="labelmap.prototxt", batch_sampler=[{}]),
                                              data_param=dict(batch_size=4, backend=P.Data.LMDB, source="lmdb"), ntop=2, include=include,
                                              transform_param=train_transform)
    last = "data"
    for i, outputs in enumerate((8, 16, 16)):
        last = ConvReLU(net, last, "conv%d" % (i + 1), outputs, kernel_size=3, pad=1, stride=2)
    layers = Heads(net, ["conv2", "conv3"], num_classes, [16.0, 32.0])
    if phase == "train":
        net["mbox_loss"] = L.MultiBoxLoss(*layers, net.label, multibox_loss_param=multibox, include=include, propagate_down=[True, True, False, False],
                                          loss_param=dict(normalization=P.Loss.VALID))
    else:
        net["mbox_conf_reshape"] = L.Reshape(net["mbox_conf"], shape=dict(dim=[0, -1, num_classes]))
        net["mbox_conf_softmax"] = L.Softmax(net["mbox_conf_reshape"], axis=2)
        net["mbox_conf_flatten"] = L.Flatten(net["mbox_conf_softmax"], axis=1)
        net["detection_out"] = L.DetectionOutput(net["mbox_loc"], net["mbox_conf_flatten"], net["mbox_priorbox"], detection_output_param=det_out)
    param = net.to_proto()
    param.name = "VGG_" + phase
    with open(phase + ".prototxt", "w") as f:
        print(param, file=f)
    return net


nets = {phase: write(phase) for phase in ("train", "test", "deploy")}
solver = caffe_pb2.SolverParameter(train_net="train.prototxt", test_net=["test.prototxt"], test_iter=[math.ceil(5 / 4)], test_interval=10000, eval_type="detection",
                                   ap_version="11point", base_lr=0.001, lr_policy="multistep", stepvalue=[80, 100], gamma=0.1, snapshot_prefix="ssd",
                                   solver_mode=P.Solver.CPU, snapshot_after_train=True, average_loss=10, momentum=0.9, type="SGD", debug_info=False)
with open("ssd_solver.prototxt", "w") as f:
    print(solver, file=f)
with open("job.sh", "w") as f:
    f.write("cd .\n./build/tools/caffe train \\\n--solver=\"ssd_solver.prototxt\" \\\n--gpu 0 2>&1 | tee log\n")
os.chmod("job.sh", stat.S_IRWXU)
assert nets["deploy"].keys()[0] == "data" and nets["deploy"].vals()[0] is nets["deploy"].data
read = text_format.Merge(open("deploy.prototxt").read(), caffe_pb2.NetParameter())
assert read.layer[-1].detection_output_param.save_output_param.output_format == "VOC"
priors = [layer.prior_box_param for layer in read.layer if layer.type == "PriorBox"]
assert [list(p.max_size) for p in priors] == [[32.0], [64.0]]
net = caffe.Net("deploy.prototxt", caffe.TEST)
net.blobs["data"].data[...] = 1
out = net.forward()["detection_out"]
assert out.shape[1] == 1 and out.shape[3] == 7
print("ok", net.blobs["mbox_priorbox"].data.shape, len(net.layers))
