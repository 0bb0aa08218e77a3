"""What a device was like over several runs, from what it was like in each (:mod:`edgeprune.agent.telemetry`)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from edgeprune.agent.telemetry import AT_WORK, FELL, NVIDIA_SMI, NVML, NVML_HEAT, NVML_SUPPLY, ROSE_BY, TEGRASTATS
from edgeprune.samples.conditions import DeviceState, Telemetry

BOARD = "the board"  # begins what :mod:`edgeprune.agent` says of a board that did not stay as it was set
NOT_WATCHED = f"{BOARD} was not watched"
HEAT = "give it a fan or a lower power mode, and measure again when it is cool"
SUPPLY = "give it a stronger supply or a lower power mode, and measure again"
EITHER = "give it a fan, a stronger supply or a lower power mode, and measure again"
LEAVE_ALONE = "measure again while nobody else uses or sets the board"
MANY_EVENTS, MANY_EVENTS_PER_HOUR = 5, 1000  # a guess: boards that were reported to throttle count thousands an hour


def over_launches(states: Sequence[DeviceState]) -> DeviceState:
    """The state of a device over several launches: throttled when it was in any, its highest temperature, waiting
    summed; power mode and clocks are those of the last launch that tells them."""
    temperatures = [state.temperature_c for state in states if state.temperature_c is not None]
    telemetry = [state.telemetry for state in states if state.telemetry is not None]
    return DeviceState(
        power_mode=next((state.power_mode for state in reversed(states) if state.power_mode), ""),
        clocks=next((state.clocks for state in reversed(states) if state.clocks), ""),
        clocks_doubt=next((state.clocks_doubt for state in reversed(states) if state.clocks_doubt), ""),
        temperature_c=max(temperatures, default=None),
        throttled=any(state.throttled for state in states),
        throttled_why="; ".join(dict.fromkeys(state.throttled_why for state in states if state.throttled_why)),
        waited_s=sum(state.waited_s for state in states),
        telemetry=_joined(telemetry) if telemetry else None,
    )


def causes_of(states: Sequence[DeviceState]) -> list[str]:
    """Why devices throttled, were not held or were set otherwise during their runs; each once."""
    causes = [cause for state in states if state.throttled for cause in state.throttled_why.split("; ")]
    return list(dict.fromkeys(filter(None, causes)))


def remedy_of(causes: Sequence[str]) -> str:
    """What to do about the causes of :func:`causes_of`, in the order in which they are told; empty for none that is
    known."""
    return "; ".join(dict.fromkeys(remedy for remedy in map(_remedy, causes) if remedy))


def may_cool(states: Sequence[DeviceState]) -> bool:
    """Whether a device throttled for what a pause mends: heat, or what may be heat."""
    return bool({HEAT, EITHER} & set(map(_remedy, causes_of(states))))


def _remedy(cause: str) -> str:
    if AT_WORK in cause:
        return HEAT
    if ROSE_BY in cause:
        return SUPPLY
    if cause.startswith(FELL):
        return EITHER
    if cause.startswith(NVML):
        with suppress(ValueError):
            reasons = int(cause.rpartition(" ")[2], 16)
            heat, supply = bool(reasons & NVML_HEAT), bool(reasons & NVML_SUPPLY)
            return EITHER if heat == supply else HEAT if heat else SUPPLY
        return EITHER
    if cause.startswith(NOT_WATCHED):
        source = NVIDIA_SMI[0] if NVIDIA_SMI[0] in cause else TEGRASTATS[0]
        return f"see that {source} runs there"
    return LEAVE_ALONE if cause.startswith(BOARD) else ""


def doubt_of(state: DeviceState) -> str:
    """What speaks against taking a run's times for those of an undisturbed board, and proves nothing: for the reason
    of its gate; empty where nothing does.

    Over-current events come singly in any mode. At :data:`MANY_EVENTS_PER_HOUR` the hardware keeps throttling for
    moments, which neither the clock that the kernel reads nor a cooling device shows.
    """
    seen, doubts = state.telemetry, [state.clocks_doubt] if state.clocks_doubt else []
    if seen is None:
        return "; ".join(doubts)
    counted = {name: n for name, n in seen.over_current_events.items() if name not in seen.over_current_harmless}
    count = sum(counted.values())
    if count >= MANY_EVENTS and seen.seconds and count / seen.seconds * 3600 >= MANY_EVENTS_PER_HOUR:
        kinds = ", ".join(name.partition("_")[0] for name in sorted(counted) if counted[name])
        doubts.append(
            f"{count} over-current events ({kinds}) in {seen.seconds:.0f} s: the board may have throttled at each; a "
            "lower power mode or a stronger supply shows whether it did"
        )
    if state.clocks == "locked" and seen.source == "tegrastats" and not seen.gpu_clock:
        doubts.append("no clock of the GPU could be read, so that one which fell would not have been seen")
    if seen.unwatched and not state.throttled:
        doubts.append(f"{seen.unwatched}, so that the run was watched only in part")
    return "; ".join(doubts)


def _joined(parts: Sequence[Telemetry]) -> Telemetry:
    """Sums, extremes and means; ``samples`` weigh the mean power."""
    powered = [(part.power_w_mean, max(part.samples, 1)) for part in parts if part.power_w_mean is not None]
    weight = sum(samples for _, samples in powered)
    hottest: dict[str, float] = {}
    events: dict[str, int] = {}
    for part in parts:
        for place, value in part.temperature_max_c.items():
            hottest[place] = max(value, hottest.get(place, value))
        for kind, count in part.over_current_events.items():
            events[kind] = events.get(kind, 0) + count
    return Telemetry(
        source=parts[-1].source,
        samples=sum(part.samples for part in parts),
        temperature_max_c=hottest,
        power_w_mean=sum(watts * samples for watts, samples in powered) / weight if powered else None,
        power_w_max=max((part.power_w_max for part in parts if part.power_w_max is not None), default=None),
        gpu_mhz_min=min((part.gpu_mhz_min for part in parts if part.gpu_mhz_min is not None), default=None),
        gpu_mhz_max=max((part.gpu_mhz_max for part in parts if part.gpu_mhz_max is not None), default=None),
        gpu_clock=next((part.gpu_clock for part in reversed(parts) if part.gpu_clock), ""),
        over_current_events=events,
        over_current_harmless=tuple(sorted({name for part in parts for name in part.over_current_harmless})),
        seconds=sum(part.seconds for part in parts),
        unwatched=next((part.unwatched for part in parts if part.unwatched), ""),
        first_line=next((part.first_line for part in parts if part.first_line), ""),
        last_line=next((part.last_line for part in reversed(parts) if part.last_line), ""),
    )
