"""Pretraining, sparsity training and fine-tuning through Ultralytics trainer subclasses."""
