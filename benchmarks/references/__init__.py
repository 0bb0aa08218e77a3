"""The usual ways to prune a YOLO model, a row each, and the search at the latencies that they reach."""
