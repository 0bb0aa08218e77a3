"""Templates of every page that edgeprune writes, filled in with every value escaped.

A page is one self-contained file: neither scripts nor requests are allowed by its own policy. One drawing serves light
and dark, a desk and a phone.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


@cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("edgeprune.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["words"] = _words
    return environment


@cache
def _plain_environment() -> Environment:
    """The same templates for text that is no HTML, where an escaped ``&`` would be read as it stands."""
    return _environment().overlay(autoescape=False, keep_trailing_newline=True)


def _words(command: str) -> list[str]:
    """The words of a command line, what is quoted in one piece."""
    return re.findall(r"(?:'[^']*'|[^\s'])+|'", command)


def render(template: str, **values: object) -> str:
    """A template of ``report/templates`` with its values, each of them escaped.

    Args:
        template: file name without ``.html.jinja``.
        values: what the template names; one that is missing is an error.
    """
    return _environment().get_template(f"{template}.html.jinja").render(**values)


def render_markdown(template: str, **values: object) -> str:
    """As :func:`render` for a page in Markdown, ``<template>.md.jinja``, whose values are put in as they are."""
    return _plain_environment().get_template(f"{template}.md.jinja").render(**values)
