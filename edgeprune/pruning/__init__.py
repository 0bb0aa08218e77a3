"""Structured pruning: trace a model once, plan widths, apply; the result holds only stock Ultralytics classes."""
