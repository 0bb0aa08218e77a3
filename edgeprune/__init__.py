"""edgeprune: prune an Ultralytics YOLO model to a latency budget, measured on the device it ships on."""

__version__ = "0.1.0"
