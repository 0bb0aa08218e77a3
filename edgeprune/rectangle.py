"""Ultralytics' datasets, validators and predictors at one height and width, whatever they are.

Its datasets know squares, and rectangles that differ from batch to batch; a model that is made for one rectangle takes
that one alone. What validates and predicts rounds a size up to a multiple of 32, where a classifier takes any, and a
detector of smaller strides takes multiples of those.
"""

from __future__ import annotations

import copy
from typing import Any

from ultralytics.data.augment import RandomPerspective, classify_transforms
from ultralytics.data.dataset import ClassificationDataset, YOLODataset

from edgeprune.input_size import STRIDE, Size, both_sides


class LetterboxedDataset(YOLODataset):
    """Images that are scaled at once to what fits into a rectangle, and letterboxed to it; see :func:`fit_dataset`.

    The way back from the model's pixels to the image's goes by the scale at loading, which for a square is that of the
    longer side.
    """

    rectangle: tuple[int, int]
    """Height and width in pixels."""

    def load_image(self, i: int, *args: Any, **kwargs: Any) -> Any:
        """As Ultralytics does it, for a square whose side makes this image fit into the rectangle."""
        (rows, columns), (height, width) = self.labels[i]["shape"], self.rectangle
        fitting: Any = copy.copy(self)  # images are loaded by several threads at once
        fitting.imgsz = max(1, int(min(height / rows, width / columns) * max(rows, columns) + 1e-6))
        return super(LetterboxedDataset, fitting).load_image(i, *args, **kwargs)

    def build_transforms(self, hyp: Any = None) -> Any:
        """Ultralytics' own, which it makes anew when mosaic ends, with the rectangle as what comes out of them."""
        transforms = super().build_transforms(hyp)
        self.fit_transforms(transforms)
        return transforms

    def fit_transforms(self, transforms: Any) -> None:
        """Let the rectangle come out of transforms that were made for a square."""
        for transform in transforms.transforms:
            if hasattr(transform, "new_shape"):
                transform.new_shape = self.rectangle
            elif isinstance(transform, RandomPerspective):
                height, width = self.rectangle
                transform.size = (width, height)
            inner = transform if hasattr(transform, "transforms") else getattr(transform, "pre_transform", None)
            if hasattr(inner, "transforms"):
                self.fit_transforms(inner)


def fit_dataset(dataset: Any, imgsz: Size) -> Any:
    """Make a dataset of Ultralytics give images of this height and width in pixels; it is given back.

    Args:
        dataset: of any task, for training or not; it was made for squares of the longer side (``rect`` false).
        imgsz: a square changes nothing.
    """
    height, width = both_sides(imgsz)
    if height == width:
        return dataset
    if isinstance(dataset, ClassificationDataset):
        cropping = [
            one for one in dataset.torch_transforms.transforms if hasattr(one, "scale") and hasattr(one, "size")
        ]
        for transform in cropping:  # training crops at random
            transform.size = (height, width)
        if not cropping:
            dataset.torch_transforms = classify_transforms(size=(height, width))
        return dataset
    dataset.__class__, dataset.rectangle = LetterboxedDataset, (height, width)
    dataset.fit_transforms(dataset.transforms)
    if dataset.cache == "ram":  # what was read as it was made fits into the square, and would be cropped
        dataset.ims, dataset.im_hw0, dataset.im_hw = ([None] * dataset.ni for _ in range(3))
        dataset.cache_images()
    return dataset


def at_size(validator: type[Any], imgsz: Size) -> type[Any]:
    """A validator class whose images have this height and width in pixels; the class itself for a square that
    Ultralytics would not round up.

    Args:
        validator: Ultralytics' class for a task; it is given the longer side as ``imgsz``.
        imgsz: a side, or height and width.
    """
    height, width = both_sides(imgsz)
    if height == width and height % STRIDE == 0:
        return validator

    class AtSize(validator):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.args.imgsz = max(height, width)  # rounded up so far

        def build_dataset(self, *args: Any, **kwargs: Any) -> Any:
            return fit_dataset(super().build_dataset(*args, **kwargs), imgsz)

    return AtSize


def at_exact_size(predictor: type[Any]) -> type[Any]:
    """A predictor class whose images have the height and width that it is given, which are what the model takes."""

    class AtExactSize(predictor):
        def setup_model(self, *args: Any, **kwargs: Any) -> None:
            super().setup_model(*args, **kwargs)
            self.model.stride = 1  # what sizes are rounded up to a multiple of

    return AtExactSize
