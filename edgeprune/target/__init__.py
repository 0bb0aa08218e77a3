"""Targets: a device plus a runtime plus a budget, read from YAML once and frozen from then on."""

from edgeprune.target.from_yaml import (
    PROFILE,
    extending_yaml,
    is_shipped,
    load_target,
    name_to_extend,
    name_to_type,
    profile_yaml,
    shipped_targets,
    targets_dir,
)
from edgeprune.target.schema import (
    BUDGETS,
    Board,
    Budget,
    Measuring,
    Target,
    default_target,
    target_schema,
)

__all__ = [
    "BUDGETS",
    "PROFILE",
    "Board",
    "Budget",
    "Measuring",
    "Target",
    "default_target",
    "extending_yaml",
    "is_shipped",
    "load_target",
    "name_to_extend",
    "name_to_type",
    "profile_yaml",
    "shipped_targets",
    "target_schema",
    "targets_dir",
]
