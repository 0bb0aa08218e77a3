"""When two class names are the same class: as Ultralytics holds it where it hands a model's outputs on by name."""

from __future__ import annotations

from collections.abc import Mapping

FIRST_NAMES = 3  # of classes that differ, in a message


def words_of(names: Mapping[int, str]) -> dict[int, str]:
    """Class names as Ultralytics keeps them in a model: ImageNet's codes (n01440764) by their words (tench)."""
    from ultralytics.nn.autobackend import check_class_names

    return check_class_names(dict(names)) if names else {}


def same_class(one: str, other: str) -> bool:
    """Whether two names differ in case and outer spaces at most."""
    return _plain(one) == _plain(other)


def same_classes(one: Mapping[int, str], other: Mapping[int, str]) -> bool:
    """Whether every index has the same class on both sides, by code or by word."""
    one, other = words_of(one), words_of(other)
    return one.keys() == other.keys() and all(same_class(one[index], other[index]) for index in one)


def first_differences(names: Mapping[int, str], other: Mapping[int, str], whose: object) -> str:
    """The first classes that two models call otherwise, by code or by word, as text.

    Args:
        names: of the one that is spoken of.
        other: of the one that it is held against.
        whose: what that one is called.
    """
    seen, known = words_of(names), words_of(other)
    differ = [
        index
        for index in sorted(seen.keys() | known.keys())
        if index not in seen or index not in known or not same_class(seen[index], known[index])
    ]
    shown = differ[:FIRST_NAMES]
    own, others = (", ".join(f"{index} {of.get(index, 'missing')!r}" for index in shown) for of in (seen, known))
    return f"{len(differ)} of its classes differ: it calls {own}, and {whose} {others}"


def old_indices(before: Mapping[int, str], after: Mapping[int, str]) -> dict[int, int]:
    """Index of a class in ``after`` to the index that it has in ``before``, where it is there.

    Of several names that differ in case alone the one that is written the same counts. Nothing is told by names that
    are their own index, which stand where nobody gave any.
    """
    if any(all(str(index) == name for index, name in names.items()) for names in (before, after)):
        return {}
    written = {name: index for index, name in before.items()}
    plain: dict[str, int] = {}
    for index, name in before.items():
        plain.setdefault(_plain(name), index)
    found = {index: written.get(name, plain.get(_plain(name))) for index, name in after.items()}
    return {index: old for index, old in found.items() if old is not None}


def _plain(name: str) -> str:
    return str(name).strip().lower()
