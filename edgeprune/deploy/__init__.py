"""Files that the deployment tools of this field take as they are, written from what an ONNX file says of itself."""
