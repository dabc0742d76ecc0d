"""The HDF5 format of a feature store: schema, parts, reader, lock."""
