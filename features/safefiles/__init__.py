"""Files of strangers, read without trust: npz, JSON, HDF5, .keras, trees of an estimator."""
