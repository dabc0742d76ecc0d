"""Safe loading of untrusted files: npz, JSON, HDF5, .keras, scikit-learn trees."""
