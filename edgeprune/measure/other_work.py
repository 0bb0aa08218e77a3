"""Whether this machine has a core to spare, and waiting until it has; a pause for a device that was hot."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from edgeprune.agent.cpus import IDLE, WAITING, cpu_ticks
from edgeprune.agent.system import allowed_cpus
from edgeprune.samples.measurement import Measurement
from edgeprune.samples.telemetry import may_cool

LOOK_S = 1.0  # how long the processors are watched for one look
COOLING_S = 60.0  # a guess: a small heat sink loses most of its warmth in a minute or two


def idle_cores(seconds: float = LOOK_S) -> float:
    """How many of the cores that this process may use had nothing to do for the next ``seconds``; all of them where the
    system does not tell."""
    cpus = allowed_cpus()
    before = cpu_ticks(cpus)
    time.sleep(seconds)
    after = cpu_ticks(cpus)
    if before is None or after is None:
        return float(len(cpus))
    spent = [now - then for now, then in zip(after, before, strict=True)]
    return len(cpus) * (spent[IDLE] + spent[WAITING]) / max(sum(spent), 1)


def wait_for_quiet(
    longest_s: float, cores: int, note: Callable[[str], None], idle: Callable[[], float] = idle_cores
) -> None:
    """Wait until so many cores have nothing to do, a little more than half of each, and say so.

    Args:
        longest_s: give up after so many seconds; 0 does not wait at all.
        cores: that a measurement wants: no more than this process may use, and all of those where it is 0.
        note: told when a wait begins and how it ended.
        idle: looks how many cores are idle; it takes a moment.
    """
    here = len(allowed_cpus())
    wanted = 0.6 * min(cores or here, here)
    if longest_s <= 0 or idle() >= wanted:
        return
    note(f"other work keeps this machine busy: waiting for a quiet moment, {longest_s:g} s at most")
    looks = max(1, round(longest_s / LOOK_S))
    quiet = any(idle() >= wanted for _ in range(looks))
    note("it is quiet now" if quiet else f"still busy after {longest_s:g} s: measuring for longer instead")


def let_cool(before: Sequence[Measurement], note: Callable[[str], None]) -> None:
    """Before a measurement is repeated: pause for :data:`COOLING_S` where the device throttled for heat, and say so. A
    stand-in has none."""
    if may_cool([one.conditions.device for one in before if not one.simulated]):
        note(f"the device throttled: {COOLING_S:g} s without work, so that it cools, before it is measured again")
        time.sleep(COOLING_S)
