"""What a device was like over several runs, from what it was like in each (:mod:`edgeprune.agent.telemetry`)."""

from __future__ import annotations

from collections.abc import Sequence

from edgeprune.samples.conditions import DeviceState, Telemetry


def over_launches(states: Sequence[DeviceState]) -> DeviceState:
    """The state of a device over several launches: throttled when it was in any, its highest temperature, waiting
    summed; power mode and clocks are those of the last launch that tells them."""
    temperatures = [state.temperature_c for state in states if state.temperature_c is not None]
    telemetry = [state.telemetry for state in states if state.telemetry is not None]
    return DeviceState(
        power_mode=next((state.power_mode for state in reversed(states) if state.power_mode), ""),
        clocks=next((state.clocks for state in reversed(states) if state.clocks), ""),
        temperature_c=max(temperatures, default=None),
        throttled=any(state.throttled for state in states),
        throttled_why="; ".join(dict.fromkeys(state.throttled_why for state in states if state.throttled_why)),
        waited_s=sum(state.waited_s for state in states),
        telemetry=_joined(telemetry) if telemetry else None,
    )


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
        over_current_events=events,
        first_line=next((part.first_line for part in parts if part.first_line), ""),
        last_line=next((part.last_line for part in reversed(parts) if part.last_line), ""),
    )
