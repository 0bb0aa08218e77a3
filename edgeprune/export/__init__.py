"""ONNX export, simplification, precision transforms and the checks behind each."""
