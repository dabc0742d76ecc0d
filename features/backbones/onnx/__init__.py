"""Bases that are ONNX models: files of any kind, and packages whose weights are read and built as such."""
