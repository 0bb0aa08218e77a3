"""What fills the axes that a graph leaves free: one rule wherever a model is built, timed or run.

Standard library and Python 3.8: the file goes along to devices that have no edgeprune.
"""

from __future__ import annotations

from collections.abc import Sequence


class NotFilled(ValueError):
    """An axis that nothing fills, or one that is fixed at something else than was asked; the message is for people."""


def filled_axes(
    name: str, sizes: Sequence[int], batch: int, imgsz: Sequence[int] | None, own: Sequence[int] | None
) -> tuple[int, ...]:
    """The shape of an input, every axis a number.

    Args:
        name: of the input.
        sizes: of its axes; 0 or less where the graph leaves one free.
        batch: asked for; 0 for none in particular, which fills a free batch with 1.
        imgsz: height and width that are asked for, of an input of four axes.
        own: height and width that the model's file says, where none are asked for; nothing else fills an axis.

    Raises:
        NotFilled: the message says which axis, and what to do.
    """
    filled = []
    for axis, size in enumerate(sizes):
        of_image = len(sizes) == 4 and axis >= 2
        asked = batch if axis == 0 else imgsz[axis - 2] if imgsz and of_image else 0
        if size > 0:
            if asked and asked != size:
                raise NotFilled(f"input {name} has axis {axis} fixed at {size}, asked was {asked}; export it so")
            filled.append(size)
            continue
        given = asked or (1 if axis == 0 else own[axis - 2] if own and len(own) == 2 and of_image else 0)
        if given <= 0:
            remedy = "give --imgsz, or export it with a fixed size" if of_image else "export it with a fixed size"
            raise NotFilled(f"input {name} leaves axis {axis} free; {remedy}")
        filled.append(given)
    return tuple(filled)
