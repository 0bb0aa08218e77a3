"""Griffe extension: Sphinx roles in docstrings (``:class:`~a.b.C```) read as plain code on the pages."""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|data|mod|attr|exc):`(?P<short>~?)(?P<name>[\w.]+)`")


class Roles(griffe.Extension):
    """Rewrites every docstring that is loaded."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for each object once it is loaded."""
        if obj.docstring is not None:
            obj.docstring.value = ROLE.sub(
                lambda found: f"`{found['name'].rpartition('.')[2] if found['short'] else found['name']}`",
                obj.docstring.value,
            )
