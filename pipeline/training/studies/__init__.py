"""Studies beyond one comparison of heads: layers, bases, and the lecture's models."""
