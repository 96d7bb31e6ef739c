"""What reaches the motors at chunk seams: our guard beside LeRobot's ActionQueue, on the same inconsistent chunks."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policy.guard import ChunkMessage, Guard
from sim.bench import main as bench
from sim.bench_seams import SeamsConfig, run_seams
from wam.errors import ConfigError
from wam.robot import load_robot

ROBOT = load_robot("sim6")
DT = 1 / ROBOT.safety.guard_rate_hz


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return run_seams(SeamsConfig(seconds=8.0, out=tmp_path_factory.mktemp("seams")))


def test_the_guard_keeps_the_acceleration_limit_at_every_seam(results):
    for name in ("guard", "guard_ensembled"):
        row = results["rows"][name]
        assert row["seams"] > 30
        assert row["seam_velocity_change_share"] <= 1.0
        assert (row["acceleration_limit_ticks"], row["velocity_limit_ticks"]) == (0, 0)


def test_jerk_beside_lerobots_action_queue_on_the_same_chunks(results):
    rows = results["rows"]
    queue, interpolated, ours = (rows[name] for name in ("lerobot_queue", "lerobot_interpolated", "guard"))
    assert queue["seam_velocity_change_share"] > 10  # a step per control period: whatever the servo makes of it
    assert interpolated["acceleration_limit_ticks"] > 0
    assert ours["jerk_rms"] < 0.2 * interpolated["jerk_rms"] < 0.1 * queue["jerk_rms"]
    assert ours["jerk_max"] < 0.5 * interpolated["jerk_max"]
    assert rows["guard_ensembled"]["jerk_rms"] < ours["jerk_rms"]
    assert ours["distance_rms"] < interpolated["distance_rms"]  # smoothness is not bought with distance


def test_where_chunks_agree_nothing_is_smoothed_away(tmp_path):
    rows = run_seams(SeamsConfig(seconds=4.0, disagreement=0.0, out=tmp_path))["rows"]
    assert rows["guard"]["distance_rms"] < 0.002
    assert rows["guard"]["seam_velocity_change_share"] < 0.25


def test_the_command_writes_numbers_and_a_plot_and_repeats_itself(tmp_path, capsys):
    for name in ("one", "two"):
        assert bench(["seams", "--seconds", "3", "--out", str(tmp_path / name)]) == 0
    printed = capsys.readouterr().out
    assert "guard: our guard: cross-fade from the commanded state" in printed
    assert f"results: {tmp_path / 'two' / 'results.json'}" in printed
    one, two = (json.loads((tmp_path / name / "results.json").read_text())["rows"] for name in ("one", "two"))
    assert one == two
    assert (tmp_path / "one" / "seams.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seconds": 1.0}, "seconds 1.0, replan_steps 2 and delay_steps 1 must be at least 2, 1 and 0"),
        ({"replan_steps": 15}, "chunks of 16 actions end before the next one arrives, 15 [+] 1 steps later"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        SeamsConfig(out=Path("unused"), **changes)


@settings(max_examples=25)
@given(
    offsets=st.lists(st.floats(-0.2, 0.2), min_size=4, max_size=12),
    slope=st.floats(-1.0, 1.0),
    replan=st.integers(2, 9),
    delay=st.integers(0, 8),
)
def test_no_seam_between_any_chunks_breaks_the_acceleration_limit(offsets, slope, replan, delay):
    """Chunks that start anywhere near the arm and point anywhere, at any rhythm and delay, counted in guard ticks."""
    hardest = np.array([axis.max_acceleration for axis in ROBOT.axes])
    guard, arm, speed = Guard(ROBOT), np.full(ROBOT.action_dim, 0.5), np.zeros(ROBOT.action_dim)
    waiting: list[tuple[int, ChunkMessage]] = []
    for tick in range(len(offsets) * replan):
        now = 100.0 + tick * DT
        guard.on_state(now, arm, now)
        number, rest = divmod(tick, replan)
        if rest == 0:
            times = np.arange(16) * ROBOT.control_dt
            plan = 0.5 + (offsets[number] if number else 0.0) + slope * times[:, None]  # the first one is near the arm
            positions = np.clip(np.broadcast_to(plan, (16, ROBOT.action_dim)), ROBOT.lower, ROBOT.upper)
            message = ChunkMessage(
                names=ROBOT.action_names, times_s=times, positions=positions, stamp=now, epoch=0, sequence=number
            )
            waiting.append((tick + delay, message))
        while waiting and waiting[0][0] <= tick:
            refusal = guard.on_chunk(waiting.pop(0)[1], now, now)
            assert refusal == "" or "does not go on from where the arm is" in refusal  # nor does it play then
            guard.engage(now)
        command = guard.tick(now, now)
        assert (np.abs(command.velocities - speed) <= hardest * DT).all()
        arm, speed = command.positions, command.velocities
    arrived = len(offsets) * replan > delay
    refused = int(guard.status().get("chunks_refused", 0))
    assert guard.status()["state"] == ("RUN_POLICY" if arrived else "HOLD") or refused
