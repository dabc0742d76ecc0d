"""This machine and others: Keras, the user's cache, memory and cores, progress, versions, Dask."""
