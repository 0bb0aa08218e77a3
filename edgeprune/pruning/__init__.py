"""Structured pruning of Ultralytics models that leaves only stock classes behind."""
