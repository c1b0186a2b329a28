"""What runs a net: blobs, layers, the net itself, devices, random streams, snapshots.

Imports go one way: tools -> solvers -> engine <- layers -> kernels, engine -> proto. The engine never imports layers;
they register themselves. tests/test_layout.py checks this.
"""
