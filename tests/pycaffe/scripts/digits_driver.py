"""What a training server does: nets from text and messages, a solver, the program in a process of its own, its log parsed."""
import os
import pickle
import re
import subprocess
import sys

import lmdb
import numpy as np

import caffe_pb2_of as pb2
from google.protobuf import text_format


caffe_pb2 = pb2.caffe_pb2
rng = np.random.RandomState(0)
for name, count in (("train_db", 80), ("val_db", 20)):
    with lmdb.open(name, map_size=1 << 24) as env, env.begin(write=True) as txn:
        for i in range(count):
            pixels = rng.randint(0, 100, (1, 8, 8)).astype(np.uint8)
            pixels[0, (i % 2) * 4:(i % 2) * 4 + 4] += 150
            txn.put(b"%08d" % i, caffe_pb2.Datum(channels=1, height=8, width=8, data=pixels.tobytes(), label=i % 2).SerializeToString())
network = caffe_pb2.NetParameter()
text_format.Merge("""
layer { name: "ip" type: "InnerProduct" bottom: "scaled" top: "ip" param { lr_mult: 1 } param { lr_mult: 2 } inner_product_param { weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" exclude { stage: "deploy" } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { stage: "val" } }
layer { name: "softmax" type: "Softmax" bottom: "ip" top: "softmax" include { stage: "deploy" } }""", network)
assert pickle.loads(pickle.dumps(network)) == network              # jobs are stored so
for layer in network.layer:
    if layer.type == "InnerProduct" and not layer.inner_product_param.HasField("num_output"):
        layer.inner_product_param.num_output = 2
train_val, deploy = caffe_pb2.NetParameter(), caffe_pb2.NetParameter()
for stage, source, batch in (("train", "train_db", 10), ("val", "val_db", 10)):
    layer = train_val.layer.add(type="Data", name=stage + "-data")
    layer.top.extend(["data", "label"])
    layer.include.add(phase=caffe_pb2.TRAIN if stage == "train" else caffe_pb2.TEST)
    layer.data_param.source, layer.data_param.batch_size, layer.data_param.backend = source, batch, caffe_pb2.DataParameter.LMDB
    layer.transform_param.mean_value.append(100.0)
scale = train_val.layer.add(type="Power", name="scale", bottom=["data"], top=["scaled"])
scale.power_param.scale = 0.0125
train_val.layer.extend(layer for layer in network.layer if not any("deploy" in rule.stage for rule in layer.include))
for layer in train_val.layer:
    for rules in (layer.include, layer.exclude):
        for rule in rules:
            if "val" in rule.stage:
                rule.phase = caffe_pb2.TEST
                rule.ClearField("stage")
with open("train_val.prototxt", "w") as f:
    text_format.PrintMessage(train_val, f)
solver = caffe_pb2.SolverParameter()
solver.max_iter, solver.snapshot, solver.snapshot_prefix, solver.display = 60, 30, "snapshot", 12
solver.test_iter.append(2)
solver.test_interval, solver.net = 30, "train_val.prototxt"
solver.lr_policy, solver.base_lr, solver.gamma, solver.stepsize = "sigmoid", 0.1, -0.1, 45
solver.solver_mode = caffe_pb2.SolverParameter.SolverMode.Value("CPU")
solver.solver_type, solver.momentum, solver.random_seed = solver.SGD, 0.9, 42
with open("solver.prototxt", "w") as f:
    text_format.PrintMessage(solver, f)
args = [*sys.argv[1:], "train", "--solver=solver.prototxt", "--alsologtostderr"]
p = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=os.getcwd(), env=dict(os.environ, GLOG_minloglevel="0"))
updates, values = [], {}
for line in p.stdout:
    line = line.decode("utf-8").strip()
    match = re.match(r"^[A-Z]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [^:]+:\d+\] (.*)$", line)
    message = match.group(1).strip() if match else ""
    found = re.match(r"Iteration (\d+).*lr = (\S+)", message) or re.match(r"Iteration (\d+).*loss = (\S+)", message)
    if found:
        updates.append((int(found.group(1)), float(found.group(2))))
    found = re.match(r"(?:Test|Train) net output #(\d+): (\S+) = (\S+)", message)
    if found:
        values.setdefault(found.group(2), []).append(float(found.group(3)))
assert p.wait() == 0, line
assert {0, 12, 24, 36, 48} <= {i for i, _ in updates}, updates
assert values["accuracy"][-1] == 1 and values["loss"][-1] < 0.5 * values["loss"][0], values
assert sorted(f for f in os.listdir(".") if f.startswith("snapshot_iter")) == ["snapshot_iter_%d.%s" % (i, e) for i in (30, 60) for e in ("caffemodel", "solverstate")]
print("ok", len(updates))
