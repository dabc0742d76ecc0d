"""What the machine and others offer: Keras, the user's cache, memory and cores, progress, versions, Dask."""
