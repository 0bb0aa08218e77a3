"""Ultralytics' ``results.csv``: a row for every finished epoch."""

from __future__ import annotations

from pathlib import Path

from edgeprune.training.result import Epoch


def read_epochs(results: Path) -> tuple[Epoch, ...]:
    """The rows of a ``results.csv``, without those that a loss of power garbled; none where there is no such file."""
    if not results.is_file():
        return ()
    header, *lines = results.read_text(errors="replace").splitlines() or [""]
    rows = [row for line in lines if (row := row_of(header, line)) is not None]
    return tuple(Epoch(int(row.pop("epoch")), row.pop("time"), row) for row in rows)


def row_of(header: str, line: str) -> dict[str, float] | None:
    """One row of a ``results.csv``, by column; None for a line that is no whole row."""
    try:
        row = {key.strip(): float(value) for key, value in zip(header.split(","), line.split(","), strict=True)}
    except ValueError:
        return None
    return row if {"epoch", "time"} <= row.keys() and row["epoch"].is_integer() else None
