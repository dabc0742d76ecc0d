"""The graph of an exported model: resizing, base and head as layers of Keras, or joined ONNX models."""
