"""How Ultralytics' validator of classifiers reads a dataset's class folders: by the dataset's names, in its order.

Its own goes by the names of the model, to the letter: where some of the folders are called like that and others differ
in case, it leaves the others' images out. And it shuffles, by torch's seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def on_class_folders(validator: type[Any], names: Mapping[int, str]) -> type[Any]:
    """A subclass of a classifier's validator that judges every image of the dataset, in the order of its files; the
    class itself for a validator of another task, which goes by indices.

    Args:
        validator: Ultralytics' class for a task.
        names: of the dataset, which names its folders; the model's are the same classes
            (:meth:`~edgeprune.dataset.Dataset.check_matches`).
    """
    from ultralytics.data import build_dataloader
    from ultralytics.models.yolo.classify import ClassificationValidator

    if not issubclass(validator, ClassificationValidator):
        return validator

    class OnClassFolders(validator):
        def build_dataset(self, *args: Any, **kwargs: Any) -> Any:
            of_the_model, self.names = self.names, dict(names)
            try:
                return super().build_dataset(*args, **kwargs)
            finally:
                self.names = of_the_model

        def get_dataloader(self, dataset_path: Any, batch_size: int) -> Any:
            dataset = self.build_dataset(dataset_path)
            if not dataset.samples:
                raise FileNotFoundError(f"no image of {dataset_path} can be read")
            device: Any = self.device
            return build_dataloader(dataset, batch_size, self.args.workers, shuffle=False, device=device)

    return OnClassFolders
