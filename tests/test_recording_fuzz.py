"""A recording in which anything was changed is refused in one message, or gives what it gave before, or less of it.

Seeded: 500 mutations of a recording of a second, of its bytes and of the times in it.
"""

import functools
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import yaml

pytest.importorskip("mcap_ros2")

from sim.recorded_time import FAR_NS
from sim.recordings import Recording, read_header
from sim.ticks import Tick, TickSettings, ticks
from tests.recorded_scenes import Event, scene, stamp_ns, write
from wam.errors import DatasetError
from wam.robot import robot_file

SIZE_PX = 8
DAY_NS = 86_400 * 10**9
WILD_NS = (0, 2**64 - 1000, DAY_NS, 2**63)  # times of arrival that somebody has seen, or might
HEADER_BYTES = 40  # of a chunk, in front of its messages
BYTE_MUTATIONS, TIME_MUTATIONS = 340, 160
PER_CHUNK = 60
CHUNK, DATA_END, FRAME = 0x06, 0x0F, 9


@dataclass(frozen=True)
class Outcome:
    """What a recording gives."""

    usable: dict[int, tuple[bytes, ...]]  # time [ns] -> pictures, joints and action
    count: int  # ticks
    said: list[str]  # what was said about it
    truncated: bool


def outcome(path: Path) -> Outcome:
    header, notes = read_header(path), []
    recording = Recording(header)
    found = list(ticks(header, recording.messages(), TickSettings(), notes=notes))
    usable = {tick.time_ns: content(tick) for tick in found if not tick.reason}
    return Outcome(usable=usable, count=len(found), said=notes, truncated=recording.truncated)


def outcome_or_refusal(path: Path) -> Outcome | DatasetError:
    try:
        return outcome(path)
    except DatasetError as error:
        return error


def content(tick: Tick) -> tuple[bytes, ...]:
    seen = tick.observation
    return (*(image.tobytes() for image in seen.images.values()), seen.proprio.tobytes(), tick.action.tobytes())


@functools.cache
def robot_text() -> str:
    data = yaml.safe_load(robot_file("sim6").read_text())
    for camera in data["cameras"]:
        camera["width_px"] = camera["height_px"] = SIZE_PX
    return yaml.safe_dump(data)


def record(folder: Path, events: list[Event], *, finish: bool = True, compression: str = "none") -> Path:
    path = folder / "episode_000000.mcap"
    for leftover in (path, folder / "episode_000000.partial.mcap"):
        leftover.unlink(missing_ok=True)
    return write(path, events, robot_text=robot_text(), finish=finish, per_chunk=PER_CHUNK, compression=compression)


@pytest.fixture(scope="module")
def events() -> list[Event]:
    return scene(0.8, size_px=SIZE_PX)


def check_same(found: Outcome, before: Outcome, what: str) -> None:
    """Whatever is still there is what it was, and what is not there is said."""
    assert found.count <= before.count + 60, what
    if found.said:
        return
    for time_ns, values in found.usable.items():
        assert before.usable.get(time_ns) == values, f"{what}: another observation at {time_ns}"
    if not found.truncated:
        assert found.usable.keys() == before.usable.keys(), what


def check_near(values: tuple[bytes, ...], before: tuple[bytes, ...]) -> None:
    """Where a message was left out, the one before it stands in: a frame or two, some joint states, no other moment."""
    *pictures, proprio, action = values
    *earlier, was, wanted = before
    for picture, other in zip(pictures, earlier, strict=True):
        assert abs(picture[0] - other[0]) <= 3 * 2
    for numbers, others in ((proprio, was), (action, wanted)):
        assert np.abs(np.frombuffer(numbers, np.float32) - np.frombuffer(others, np.float32)).max() < 0.025


# -------------------------------------------------------------------------------------------------------- bytes


def unprotected(data: bytes) -> list[int]:
    """Places outside what a chunk's checksum covers, up to the end of the data."""
    places, at = list(range(8)), 8
    while at + FRAME <= len(data) and (at == 8 or data[at] != DATA_END):
        length = int.from_bytes(data[at + 1 : at + FRAME], "little")
        covered = HEADER_BYTES if data[at] == CHUNK else length
        places += range(at, at + FRAME + covered)
        at += FRAME + length
    return [place for place in places if place < len(data)]


def changed(data: bytes, places: list[int], noise: np.random.Generator) -> tuple[bytes, str]:
    """The file with one thing changed, and what."""
    at = int(noise.choice(places)) if noise.random() < 0.7 else int(noise.integers(len(data)))
    kind = noise.choice(["flip", "flip", "overwrite", "cut", "insert", "end", "zeros"])
    size = int(noise.integers(1, 9)) if kind == "overwrite" else int(noise.integers(1, 300))
    made = noise.integers(0, 256, size, dtype=np.uint8).tobytes()
    tail = {
        "flip": bytes([data[at] ^ 1 << int(noise.integers(8))]) + data[at + 1 :],
        "overwrite": made + data[at + size :],
        "cut": data[at + size :],
        "insert": made + data[at:],
        "end": b"",
        "zeros": bytes(len(data) - at),
    }
    return data[:at] + tail[str(kind)], f"{kind} of {size} at {at} of {len(data)}"


@pytest.mark.parametrize(
    ("finish", "compression", "share"),
    [(True, "none", 0.4), (False, "none", 0.3), (True, "zstd", 0.2), (True, "lz4", 0.1)],
)
def test_changed_bytes_are_refused_or_lose_something_that_is_said(tmp_path, events, finish, compression, share):
    noise, count = np.random.default_rng(int(finish)), round(share * BYTE_MUTATIONS)
    path = record(tmp_path, events, finish=finish, compression=compression)
    data, before, found = path.read_bytes(), outcome(path), Counter()
    assert len(before.usable) == 6
    places = unprotected(data)
    for _ in range(count):
        broken, what = changed(data, places, noise)
        path.write_bytes(broken)
        result = outcome_or_refusal(path)
        if isinstance(result, DatasetError):
            assert str(path) in str(result), what
            found["refused"] += 1
        else:
            check_same(result, before, what)
            found["truncated" if result.truncated else "same"] += 1
    assert found["refused"] > count / 6, found
    assert found["truncated"] > count / 20, found


# -------------------------------------------------------------------------------------------------------- times


def with_wild_arrival(events: list[Event], at: int, noise: np.random.Generator) -> Iterator[Event]:
    """One message, or two, arrived at another time altogether."""
    count = int(noise.integers(1, 3))
    for number, event in enumerate(events):
        wild = noise.choice(len(WILD_NS)) if at <= number < at + count else None
        yield event if wild is None else replace(event, log_ns=WILD_NS[wild])


def with_wild_stamp(events: list[Event], at: int, noise: np.random.Generator) -> Iterator[Event]:
    """Some pictures and joint states have a stamp that is far from right."""
    for number, event in enumerate(events):
        if event.role.split("/")[0] not in ("image", "state") or (number - at) % 40 or number < at:
            yield event
            continue
        sec = int(noise.choice([-(2**31), -1, 1, 2**31 - 1, 1_700_000_000 + 86_400, 1_700_000_000 - 3]))
        yield replace(event, data=event.data[:4] + struct.pack("<iI", sec, 0) + event.data[12:])


def with_a_set_clock(events: list[Event], at: int, noise: np.random.Generator) -> Iterator[Event]:
    """From a message on, the robot's clock shows another day."""
    shift_ns = int(noise.choice([-1, 1])) * int(noise.integers(2 * FAR_NS, DAY_NS))
    for number, event in enumerate(events):
        if number < at:
            yield event
            continue
        data = event.data
        if event.role.split("/")[0] in ("image", "state"):
            sec, nanosec = struct.unpack_from("<iI", data, 4)
            stamp = sec * 10**9 + nanosec + shift_ns
            data = data[:4] + struct.pack("<iI", *divmod(stamp, 10**9)) + data[12:]
        yield replace(event, data=data, log_ns=stamp_ns(event.at_ms) + shift_ns)


@pytest.mark.parametrize(
    ("mutate", "share"), [(with_wild_arrival, 0.6), (with_wild_stamp, 1.0), (with_a_set_clock, 0.5)]
)
def test_wild_times_end_and_the_rest_is_converted(
    tmp_path, events, mutate: Callable[..., Iterator[Event]], share: float
):
    noise, before = np.random.default_rng(7), outcome(record(tmp_path, events))
    for number in range(TIME_MUTATIONS // 3 + 1):
        at = int(noise.integers(1, len(events)))
        result = outcome(record(tmp_path, list(mutate(events, at, noise))))
        check_same(result, before, f"{mutate.__name__} {number} at {at}")
        assert len(result.usable) >= share * len(before.usable) - 1, (number, at, result.said)
        for time_ns in result.usable.keys() & before.usable.keys():
            check_near(result.usable[time_ns], before.usable[time_ns])
        if mutate is with_a_set_clock and at < len(events) - 1:
            assert any("the robot's clock jumped by" in note for note in result.said)
        if mutate is with_wild_arrival:
            assert any("wild time of arrival" in note or "clock jumped" in note for note in result.said)
