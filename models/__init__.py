"""The zoo: one folder for each net, with train_val, deploy and solver prototxts and a readme."""
