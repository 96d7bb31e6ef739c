"""Recordings whose clocks were wrong: what cannot be used is named with its numbers, the rest is converted."""

import struct
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("mcap_ros2")

from sim import convert as command
from sim.conversion import convert
from sim.convert_config import ConvertConfig
from sim.errors import SimError
from sim.recordings import Recording, read_header
from sim.ticks import Tick, TickSettings, ticks
from tests import wire_messages as wire
from tests.recorded_scenes import Event, scene, stamp_ns, write


def stamped(event: Event, shift_ms: float | None) -> Event:
    """The event with another header stamp, so much later; None: 0."""
    sec, nanosec = struct.unpack_from("<iI", event.data, 4)
    stamp = 0 if shift_ms is None else sec * 10**9 + nanosec + round(shift_ms * 1e6)
    return replace(event, data=event.data[:4] + struct.pack("<iI", *divmod(stamp, 10**9)) + event.data[12:])


def converted(tmp_path, events: list[Event]):
    write(tmp_path / "in/episode_000000.mcap", events)
    return convert(ConvertConfig(recordings=(tmp_path / "in",), out=tmp_path / "out", min_seconds=0.3))


def replayed(tmp_path, events: list[Event]) -> tuple[list[Tick], list[str]]:
    header, notes = read_header(write(tmp_path / "episode_000000.mcap", events)), []
    return list(ticks(header, Recording(header).messages(), TickSettings(), notes=notes)), notes


@pytest.mark.parametrize("log_ns", [0, 2**64 - 1000, 1_700_086_400 * 10**9])
def test_a_wild_time_of_arrival_is_named_and_the_rest_is_converted(tmp_path, log_ns):
    events = scene(2.0)
    wild = next(place for place, e in enumerate(events) if e.role == "state" and e.at_ms > 1000)
    events[wild] = replace(events[wild], log_ns=log_ns)
    found, (note,) = replayed(tmp_path, events)
    assert (len([tick for tick in found if not tick.reason]), len(found)) == (18, 20)
    assert "1 messages with a wild time of arrival were left out; the first, of 'state', is off by" in note


def test_a_clock_that_was_set_while_recording_parts_the_episode(tmp_path):
    events = scene(2.0)
    later = [e for e in events if e.at_ms > 1000]
    events = [e for e in events if e.at_ms <= 1000] + [
        replace(stamped(e, 86_400_000) if e.role.split("/")[0] in ("image", "state") else e, at_ms=e.at_ms + 86_400_000)
        for e in later
    ]
    result = converted(tmp_path, events)
    assert result.episodes == 2
    assert result.files[0].ticks < 25
    assert "the robot's clock jumped by +864" in result.files[0].notes[0]


def test_a_camera_whose_clock_leads_is_refused_with_its_lead(tmp_path):
    events = [stamped(e, 220) if e.role == "image/wrist" else e for e in scene(2.0)]
    with pytest.raises(
        SimError, match="observation.images.wrist is stamped by a clock that is 0.200 s ahead"
    ) as refused:
        converted(tmp_path, events)
    assert "observation.images.front" not in str(refused.value)


def test_a_lead_that_begins_in_the_middle_costs_what_comes_after(tmp_path):
    events = [stamped(e, 220) if e.role == "image/wrist" and e.at_ms > 2000 else e for e in scene(3.0)]
    result = converted(tmp_path, events)
    assert 19 <= result.frames <= 26  # half a second may pass until it is known; pictures until then are right
    assert "observation.images.wrist is stamped by a clock that is" in command.summary(result)


@pytest.mark.parametrize("role", ["image/front", "state"])
def test_a_driver_that_does_not_stamp_is_told_so(tmp_path, role):
    events = [stamped(e, None) if e.role == role else e for e in scene(1.0)]
    with pytest.raises(SimError, match="the driver publishes header.stamp 0, which means that it does not stamp"):
        converted(tmp_path, events)


def test_a_camera_without_colours_is_said(tmp_path):
    events = scene(0.3)
    _, notes = replayed(tmp_path, events)
    assert notes == []
    grey = wire.serialise(
        "sensor_msgs/msg/Image",
        header=wire.header(stamp_ns(100)),
        height=96,
        width=96,
        encoding="mono8",
        is_bigendian=0,
        step=96,
        data=np.zeros(96 * 96, np.uint8),
    )
    _, notes = replayed(tmp_path / "grey", [*events, Event(310, "image/front", grey)])
    assert notes[0] == "image/front is mono8: its pictures have no colours"


@pytest.mark.parametrize("shift_ms", [-86_400_000, -700, 40, 86_400_000])
@pytest.mark.parametrize("role", ["image/front", "state"])
def test_single_wild_stamps_cost_nothing_but_their_message(tmp_path, role, shift_ms):
    events = scene(1.5)
    wild = [place for place, e in enumerate(events) if e.role == role][20:40:20]
    for place in wild:
        events[place] = stamped(events[place], shift_ms)
    found, notes = replayed(tmp_path, events)
    usable = [tick for tick in found if not tick.reason]
    assert len(usable) >= 13 - 1  # one frame less may be further from the joints than the limits allow
    assert bool(notes) == (shift_ms < 0)
    assert all("were not used: they are stamped before ones that came earlier" in note for note in notes)
