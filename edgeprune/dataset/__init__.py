"""Datasets: their YAML or folder, images, labels, class names, digests, and the links that Ultralytics is given."""

from edgeprune.dataset.dataset import ONE_CLASS, SPLITS, Dataset

__all__ = ["ONE_CLASS", "SPLITS", "Dataset"]
