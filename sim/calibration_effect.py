"""``wam calibrate effect``: what a knocked camera costs a trained policy, and what the daily check wins back.

In simulation, but through what a real robot uses: the camera is calibrated with the commands of ``wam calibrate`` from
pictures of a board; then it is knocked in random directions; the daily check says from one picture by how much, a
person moves it back as exactly as hands do and checks again until the check is content. The policy plays the same
test seeds with the camera where it was, knocked, and put back; each is compared with the first by McNemar's exact test.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from rich.console import Console

from calibration.check_robot import check_camera
from calibration.errors import CalibrationError
from calibration.rigid import exp, inverse, separation
from sim.calibration_effect_report import effect_table, write_effect_report
from sim.calibration_room import CalibrationRoom, write_robot
from sim.commands import command_line
from sim.errors import SimError
from sim.evaluate import evaluate
from sim.evaluate_config import EvaluateConfig
from sim.provenance import provenance
from sim.results import write_json
from sim.statistics import mcnemar_exact
from wam.calibration_spec import CameraCalibration, PoseSpec, RobotCalibration
from wam.errors import ConfigError, unknown_name
from wam.manifest import read_manifest
from wam.robot import RobotSpec, load_robot

__all__ = ["EffectConfig", "main", "measure_effect", "put_back"]

FORMAT = "wam-calibration-effect/1"
_ROUNDS = 6  # of checking and moving; a person would give up as well
_LOOKS = 8  # poses of the arm that are tried until the board is seen


@dataclass(frozen=True, kw_only=True)
class EffectConfig:
    """Knock a simulated camera, put it back with the daily check, and count what a policy solves meanwhile."""

    bundle: Path  # policy bundle folder
    task: str = "lift"  # task of the suite: reach, lift, push or place
    camera: str = "front"  # camera that is knocked
    move_mm: float = 20.0  # how far it is moved [mm]
    turn_deg: float = 2.0  # and by how much it is turned [degree]
    knocks: int = 4  # random directions of both that are tried, each with all episodes
    hand_mm: float = 1.0  # how exactly a person moves a camera by what the check says, per axis [mm]
    hand_deg: float = 0.15  # the same for turning it [degree]
    episodes: int = 200  # test episodes per row
    robot: str = ""  # robot name or file; it names its kinematic model. Default: the bundle's robot by name
    seed: int = 0  # of the directions, the pictures' noise and the person's hand
    latency_ms: str = "measured-p50"  # delay in the loop [ms], the same in all rows: a number, or measured-p50
    workers: int = 0  # processes; 0: one per CPU core. Does not change the result
    out: Path = Path("runs/calibration/effect")  # folder for results.json, report.html and everything between
    overwrite: bool = False  # replace what is in that folder

    def __post_init__(self) -> None:
        if self.knocks < 1 or self.episodes < 1:
            raise ConfigError(f"knocks is {self.knocks} and episodes {self.episodes}: both must be at least 1.")
        if min(self.move_mm, self.turn_deg, self.hand_mm, self.hand_deg) < 0:
            raise ConfigError("move_mm, turn_deg, hand_mm and hand_deg are sizes: 0 or more.")


@dataclass(frozen=True, kw_only=True)
class Stand:
    """Where the camera stands for one row, and how it came there."""

    name: str
    pose: np.ndarray  # (4, 4) T_body_camera, true
    off_mm: float  # from where the policy was trained with it, true [mm]
    off_deg: float  # [degree]
    said: Sequence[str] = field(default=())  # what the check said, round by round


def main(argv: list[str] | None = None) -> int:
    """Command line of ``wam calibrate effect``."""
    config = tyro.cli(EffectConfig, args=argv, prog="wam calibrate effect")
    results = measure_effect(config)
    Console().print(effect_table(results))
    print(f"wrote {config.out / 'results.json'}\nwrote {config.out / 'report.html'}")
    return 0


def measure_effect(config: EffectConfig) -> dict[str, Any]:
    """Runs everything and writes it into ``config.out``.

    Returns:
        What ``results.json`` holds.

    Raises:
        WamError: Bundle, robot or camera cannot be used, or a calibration is refused.
    """
    robot = _robot_of(config)
    _prepare(config)
    room = CalibrationRoom(robot, config.camera, seed=config.seed)
    try:
        calibrated = room.calibrate(config.out / "calibration")
        stands = _stands(config, room, calibrated)
    finally:
        room.close()
    rows: list[dict[str, Any]] = []
    outcomes: list[list[bool]] = []
    latency_ms = config.latency_ms
    for index, stand in enumerate(stands):
        path = write_robot(_placed(robot, config.camera, room.body, stand.pose), config.out / f"row_{index}")
        print(f"{stand.name}: off by {stand.off_mm:.1f} mm and {stand.off_deg:.2f} degrees")
        played = evaluate(_evaluation(config, path, latency_ms))
        latency_ms = f"{1e3 * played['loop']['latency_s']:.3f}"
        outcomes.append([episode["success"] for episode in played["episodes"]])
        rows.append(_row(stand, played, outcomes))
    known = load_robot(calibrated).calibration
    assert known is not None
    pose = known.camera(config.camera).pose
    assert pose is not None
    error_mm, error_deg = separation(pose.matrix, room.nominal)
    results = {
        "format": FORMAT,
        "command": command_line("calibrate effect", config, always=("task", "camera", "episodes"), never=("workers",)),
        "settings": {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()},
        "hand_eye_error": {"mm": float(error_mm), "deg": float(error_deg)},
        "latency_ms": float(latency_ms),
        "rows": rows,
        **provenance(played["backend"]),
    }
    write_json(config.out / "results.json", results)
    write_effect_report(results, [config.out / f"row_{index}" / f"{robot.name}.yaml" for index in range(len(rows))])
    return results


def put_back(
    room: CalibrationRoom, calibrated: Path, pose: np.ndarray, hand: tuple[float, float], rng: np.random.Generator
) -> tuple[np.ndarray, list[str]]:
    """Moves a camera back as the daily check says, until it is content.

    Args:
        room: The scene; its camera ends where it was put.
        calibrated: The robot file with the calibration.
        pose: (4, 4) ``T_body_camera``, where the camera truly is.
        hand: How exactly a person moves and turns it, per axis [m], [rad].
        rng: Of the person's hand.

    Returns:
        (4, 4) where it truly is in the end, and what the check said in each round.

    Raises:
        CalibrationError: The board is never seen, or the check is not content after some rounds.
    """
    robot = load_robot(calibrated)
    said = []
    for _ in range(_ROUNDS):
        room.set_camera(pose)
        result = _check(room, robot, calibrated)
        said.append(result.text())
        if result.ok:
            return pose, said
        if result.moved_mm is None:
            break
        measured = exp(np.concatenate([np.radians(result.turned_deg), 1e-3 * np.array(result.moved_mm)]))
        slip = exp(np.concatenate([rng.normal(0, hand[1], 3), rng.normal(0, hand[0], 3)]))
        pose = pose @ inverse(measured) @ slip
    raise CalibrationError(
        f"the camera could not be put back in {len(said)} rounds; the check said: {said[-1]} Give a hand that is "
        "steadier than the check's tolerance (--hand-mm, --hand-deg)."
    )


def _check(room: CalibrationRoom, robot: RobotSpec, path: Path) -> Any:
    """The first look in which the board is seen decides."""
    for attempt in range(_LOOKS):
        image, joints = room.look()
        try:
            return check_camera(robot, path, room.camera, image, joints)
        except CalibrationError:
            if attempt == _LOOKS - 1:
                raise
    raise AssertionError("not reached")


def _stands(config: EffectConfig, room: CalibrationRoom, calibrated: Path) -> list[Stand]:
    """Where the camera stands: as it was, then knocked and put back for each direction."""
    rng = np.random.default_rng([config.seed, 31])
    stands = [Stand(name="as calibrated", pose=room.nominal, off_mm=0.0, off_deg=0.0)]
    hand = (1e-3 * config.hand_mm, float(np.radians(config.hand_deg)))
    for index in range(config.knocks):
        turn, move = (vector / np.linalg.norm(vector) for vector in rng.normal(size=(2, 3)))
        knocked = room.nominal @ exp(np.concatenate([np.radians(config.turn_deg) * turn, 1e-3 * config.move_mm * move]))
        back, said = put_back(room, calibrated, knocked, hand, rng)
        stands.append(_stand(f"knocked {index + 1}", room, knocked))
        stands.append(replace(_stand(f"put back {index + 1}", room, back), said=tuple(said)))
    return stands


def _stand(name: str, room: CalibrationRoom, pose: np.ndarray) -> Stand:
    millimetres, degrees = separation(pose, room.nominal)
    return Stand(name=name, pose=pose, off_mm=float(millimetres), off_deg=float(degrees))


def _row(stand: Stand, played: Mapping[str, Any], outcomes: Sequence[Sequence[bool]]) -> dict[str, Any]:
    policy = played["rows"][0]
    row = {
        "name": stand.name,
        "off_mm": round(stand.off_mm, 3),
        "off_deg": round(stand.off_deg, 4),
        "check": list(stand.said),
        "T_body_camera": stand.pose.tolist(),
        **{name: policy[name] for name in ("successes", "episodes", "rate", "low", "high")},
    }
    if len(outcomes) > 1:
        row["against_first"] = asdict(mcnemar_exact(outcomes[-1], outcomes[0]))
    if stand.name.startswith("put back"):
        row["against_knocked"] = asdict(mcnemar_exact(outcomes[-1], outcomes[-2]))
    return row


def _robot_of(config: EffectConfig) -> RobotSpec:
    manifest = read_manifest(config.bundle)
    robot = load_robot(config.robot or manifest.robot.name)
    manifest.check_robot(robot)
    if config.camera not in robot.camera_names:
        raise SimError(unknown_name(f"camera of robot '{robot.name}'", config.camera, robot.camera_names))
    return robot


def _prepare(config: EffectConfig) -> None:
    found = config.out / "results.json"
    if found.exists() and not config.overwrite:
        raise SimError(f"{found} exists already: give another --out, or --overwrite to replace these results.")
    for left in [config.out / "calibration", *config.out.glob("row_*")]:
        shutil.rmtree(left, ignore_errors=True)  # of an earlier run, perhaps with other settings


def _placed(robot: RobotSpec, camera: str, body: str, pose: np.ndarray) -> RobotSpec:
    """The robot whose simulated camera truly stands at a pose."""
    known = CameraCalibration(name=camera, body=body, pose=PoseSpec.from_matrix(pose))
    return replace(robot, calibration=RobotCalibration(cameras=(known,)))


def _evaluation(config: EffectConfig, robot: Path, latency_ms: str) -> EvaluateConfig:
    return EvaluateConfig(
        bundle=config.bundle,
        task=config.task,
        out=robot.parent / "evaluate",
        episodes=config.episodes,
        latency_ms=latency_ms,
        references="none",
        robot=str(robot),
        calibrated_cameras=True,
        videos=0,
        failure_videos=0,
        workers=config.workers,
    )


if __name__ == "__main__":
    sys.exit(main())
