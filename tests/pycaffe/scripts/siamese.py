"""The cells of a siamese notebook: features of pairs, a contrastive loss that falls."""
import h5py
import numpy as np

import caffe
from caffe import layers as L

rng = np.random.RandomState(0)
kinds = rng.randn(4, 10)
a, b = rng.randint(0, 4, 200), rng.randint(0, 4, 200)
with h5py.File("pairs.h5", "w") as f:
    f["pair_data"] = (np.stack([kinds[a], kinds[b]], 1) + 0.1 * rng.randn(200, 2, 10)).astype(np.float32)
    f["sim"] = (a == b).astype(np.float32)
open("pairs.txt", "w").write("pairs.h5\n")
shared = dict(num_output=2, weight_filler=dict(type="gaussian", std=0.02))
names = lambda tag: [dict(name=tag + "_w", lr_mult=1), dict(name=tag + "_b", lr_mult=2)]  # noqa: E731
n = caffe.NetSpec()
n.pair_data, n.sim = L.HDF5Data(source="pairs.txt", batch_size=50, ntop=2)
n.data, n.data_p = L.Slice(n.pair_data, ntop=2, slice_dim=1, slice_point=1)
n.feat = L.InnerProduct(n.data, param=names("feat"), **shared)
n.feat_p = L.InnerProduct(n.data_p, param=names("feat"), **shared)
n.loss = L.ContrastiveLoss(n.feat, n.feat_p, n.sim, contrastive_loss_param=dict(margin=1))
open("siamese.prototxt", "w").write(str(n.to_proto()))
open("siamese_solver.prototxt", "w").write("""net: "siamese.prototxt" base_lr: 0.05 lr_policy: "fixed" momentum: 0.9 max_iter: 200 display: 0
snapshot_prefix: "siamese" random_seed: 3 solver_mode: CPU""")
solver = caffe.SGDSolver("siamese_solver.prototxt")
losses = np.zeros(120)
for it in range(120):
    solver.step(1)
    losses[it] = solver.net.blobs["loss"].data
assert losses[-20:].mean() < 0.4 * losses[:5].mean(), losses
solver.net.save("siamese.caffemodel")
deploy = caffe.NetSpec()
deploy.data = L.Input(shape=dict(dim=[4, 1, 10]))
deploy.feat = L.InnerProduct(deploy.data, **shared)
open("siamese_deploy.prototxt", "w").write(str(deploy.to_proto()))
net = caffe.Net("siamese_deploy.prototxt", "siamese.caffemodel", caffe.TEST)
feat = net.forward_all(data=kinds[:, None].astype(np.float32))["feat"]
assert (solver.net.params["feat"][0].data == solver.net.params["feat_p"][0].data).all()
print("ok", feat.shape)
