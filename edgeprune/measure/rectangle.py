"""Ultralytics' validators on input that is not square: every image letterboxed to one height and width.

Its validators know squares, and rectangles that differ from batch to batch; a model that was exported for one rectangle
takes that one alone.
"""

from __future__ import annotations

from typing import Any


def at_size(validator: type[Any], imgsz: tuple[int, int]) -> type[Any]:
    """A validator class whose images have this height and width in pixels; the class itself for a square.

    Args:
        validator: Ultralytics' class for a task; it is given the longer side as ``imgsz``.
        imgsz: height and width.
    """
    if imgsz[0] == imgsz[1]:
        return validator

    class AtSize(validator):
        def build_dataset(self, *args: Any, **kwargs: Any) -> Any:
            dataset = super().build_dataset(*args, **kwargs)
            if self.args.task == "classify":
                from ultralytics.data.augment import classify_transforms

                dataset.torch_transforms = classify_transforms(size=imgsz)
                return dataset
            dataset.__class__ = _letterboxed(type(dataset), *imgsz)
            for transform in dataset.transforms.transforms:
                if hasattr(transform, "new_shape"):
                    transform.new_shape = imgsz
            return dataset

    return AtSize


def _letterboxed(dataset: type[Any], height: int, width: int) -> type[Any]:
    """A dataset class that scales an image at once to what fits into the rectangle.

    The way back from the model's pixels to the image's goes by the scale at loading, which for a square is that of the
    longer side.
    """

    class Letterboxed(dataset):
        def load_image(self, i: int, *args: Any, **kwargs: Any) -> Any:
            rows, columns = self.labels[i]["shape"]
            self.imgsz = max(1, int(min(height / rows, width / columns) * max(rows, columns) + 1e-6))
            return super().load_image(i, *args, **kwargs)

    return Letterboxed
