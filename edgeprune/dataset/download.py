"""Getting datasets that are not here: by Ultralytics' own names and by the ``download`` entry of a YAML."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from edgeprune.errors import NOT_OF_THE_INPUT, DataError, first_line
from edgeprune.quiet import quiet
from edgeprune.reading import is_address, is_file, shown

ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".xz", ".bz2", ".txz", ".tbz2")  # what Ultralytics downloads and unpacks


def refuse_packed(path: Path, task: str | None) -> None:
    """Raise ``DataError`` for a file that Ultralytics would unpack or convert to a dataset."""
    name = path.name.lower()
    if name.endswith(".ndjson"):
        raise DataError(
            f"{shown(path)} is a list of images for Ultralytics to download; let it write the dataset "
            "(ultralytics.data.converter.convert_ndjson_to_yolo) and give what that makes"
        )
    if name.endswith(ARCHIVES):
        inside = "folder of class folders" if task == "classify" else "YAML"
        raise DataError(f"{shown(path)} is an archive; unpack it and give its {inside}")


def is_archive(download: str) -> bool:
    """Whether it is the plain address of an archive. Ultralytics runs what it takes for none, and decodes first, so
    that an address with a percent sign may be a script to it."""
    if any(sign.isspace() or sign == "%" or not sign.isprintable() for sign in download):
        return False
    try:
        address = urlsplit(download)
    except ValueError:
        return False
    return address.scheme in ("http", "https") and bool(address.hostname) and address.path.lower().endswith(ARCHIVES)


def unpack(address: str, path: Path) -> None:
    """Download an archive and unpack it where Ultralytics keeps datasets."""
    from ultralytics.utils import DATASETS_DIR
    from ultralytics.utils.downloads import safe_download

    try:
        with quiet():
            safe_download(address, dir=DATASETS_DIR, delete=True)
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:  # its downloader raises whatever the network and the archive gave it
        raise DataError(
            f"{path}: images are missing, and {shown(address)} could not be fetched ({first_line(error)}); "
            "get the images first"
        ) from error


def by_ultralytics(name: str, task: str | None) -> Path:
    """What Ultralytics' own resolver makes of a dataset, downloaded where it is missing: a folder, or a YAML."""
    from ultralytics.data.utils import check_cls_dataset, check_det_dataset

    try:
        with quiet():
            if task == "classify":
                return Path(check_cls_dataset(name)["train"]).parent
            return Path(check_det_dataset(name)["yaml_file"])
    except NOT_OF_THE_INPUT:
        raise
    except Exception as error:  # its downloader raises whatever the network gave it, and scripts what they like
        raise DataError(
            f"dataset {shown(name)} is not here and Ultralytics could not fetch it ({first_line(error)}); "
            "give the path of a YAML"
        ) from error


def fetch(name: Path | str, task: str | None) -> Path:
    """What a name stands for that Ultralytics knows: its own YAMLs may download what they like."""
    path = Path(name)
    if is_address(name):
        inside = "folder of class folders" if task == "classify" else "YAML"
        raise DataError(f"dataset {shown(name)} is an address; download it, unpack it, and give its {inside}")
    if path.is_absolute() or len(path.parts) > 1:  # a path, not a name
        raise DataError(f"dataset {shown(name)} does not exist; give a YAML, or a folder of class folders")
    if task == "classify":
        return by_ultralytics(str(name), task)
    from ultralytics.utils import ROOT

    # by their whole paths: Ultralytics takes DATA, and DATA.yaml with a space behind it, for a data.yaml that lies here
    for file in (ROOT / "cfg/datasets" / str(name), ROOT / "cfg/datasets" / f"{name}.yaml"):
        if is_file(file):
            return by_ultralytics(str(file), task)
    raise DataError(f"dataset {shown(name)} is not here and is none that Ultralytics knows; give the path of a YAML")
