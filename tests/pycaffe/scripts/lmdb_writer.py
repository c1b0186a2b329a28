"""Datums written with py-lmdb in the ways tutorials show, and read by a Data layer and back."""
import lmdb
import numpy as np

import caffe

N = 12
X = np.random.RandomState(2).randint(0, 255, (N, 3, 6, 5)).astype(np.uint8)
y = np.arange(N) % 4
env = lmdb.open("mylmdb", map_size=X.nbytes * 10 + (1 << 20))
with env.begin(write=True) as txn:
    for i in range(N):
        datum = caffe.proto.caffe_pb2.Datum()
        datum.channels = X.shape[1]
        datum.height = X.shape[2]
        datum.width = X.shape[3]
        datum.data = X[i].tobytes()
        datum.label = int(y[i])
        str_id = "{:08}".format(i)
        txn.put(str_id.encode("ascii"), datum.SerializeToString())
env.close()
with lmdb.open("floats", map_size=1 << 22) as env, env.begin(write=True) as txn:
    for i in range(N):
        txn.put(b"%08d" % i, caffe.io.array_to_datum(X[i].astype(float) / 255, int(y[i])).SerializeToString())
env = lmdb.open("mylmdb", readonly=True)
with env.begin() as txn:
    for key, value in txn.cursor():
        datum = caffe.proto.caffe_pb2.Datum.FromString(value)
        x = caffe.io.datum_to_array(datum)
        np.testing.assert_array_equal(x, X[int(key)])
env.close()
open("lmdb.prototxt", "w").write("""
layer { name: "bytes" type: "Data" top: "x" top: "y" transform_param { scale: 0.00392156862745 } data_param { source: "mylmdb" backend: LMDB batch_size: %d } }
layer { name: "floats" type: "Data" top: "f" top: "g" data_param { source: "floats" backend: LMDB batch_size: %d } }""" % (N, N))
net = caffe.Net("lmdb.prototxt", caffe.TEST)
out = net.forward()
np.testing.assert_allclose(out["x"], X / 255.0, atol=1e-5)
np.testing.assert_allclose(out["f"], out["x"], atol=1e-5)
assert (out["y"] == y).all() and (out["g"] == y).all()
blob = caffe.io.array_to_blobproto(X.mean(0)[None])
open("mean.binaryproto", "wb").write(blob.SerializeToString())
read = caffe.proto.caffe_pb2.BlobProto()
read.ParseFromString(open("mean.binaryproto", "rb").read())
mu = np.array(caffe.io.blobproto_to_array(read))[0].mean(1).mean(1)
np.testing.assert_allclose(mu, X.mean((0, 2, 3)), rtol=1e-5)
print("ok")
