"""The one owner of the HDF5 format: schema, parts, reader, lock."""
