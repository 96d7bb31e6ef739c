"""``wam calibrate intrinsics``: a lens from a folder of pictures or a live camera."""

import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import track
from rich.table import Table

from calibration.boards import DEFAULT_BOARD, Board, parse_board
from calibration.camera_info import write_camera_info
from calibration.capture import load_picture, picture_files
from calibration.detection import Detection, detect
from calibration.errors import CalibrationError
from calibration.intrinsics import IntrinsicsResult, calibrate_intrinsics
from calibration.live_capture import capture_live
from calibration.report import intrinsics_sections, write_page
from calibration.results import camera_of, read_robot, store_camera, write_json
from calibration.sources import Camera, is_film, is_live
from wam.robot import RobotSpec

__all__ = ["IntrinsicsConfig", "calibrate_source", "main"]


@dataclass(frozen=True, kw_only=True)
class IntrinsicsConfig:
    """What to calibrate."""

    source: str  # folder of pictures, a film, or a live camera: its number, device or stream address
    board: str = DEFAULT_BOARD  # the board in the pictures, as `wam calibrate board` prints it
    # kind of lens: pinhole, rational (wide, strong distortion) or fisheye (over 120 degrees); one that does not suit is
    # refused, and the one that does is named
    model: str = "pinhole"
    robot: str = ""  # robot name or file that gets the result; none: only the files in --out are written
    camera: str = "camera"  # name of the camera; with --robot one of the robot's cameras
    out: Path | None = None  # folder for the report, camera_info and live pictures; default: runs/calibration/<camera>
    max_views: int = 60  # upper bound on the views that are used
    seconds: float = 180.0  # upper bound on live capture [s]; it stops by itself when the views suffice

    @property
    def folder(self) -> Path:
        """Where results go."""
        return Path("runs/calibration") / self.camera if self.out is None else self.out


def main(argv: list[str]) -> int:
    """Command line of ``wam calibrate intrinsics``."""
    config = tyro.cli(IntrinsicsConfig, args=argv, prog="wam calibrate intrinsics")
    robot, path = read_robot(config.robot) if config.robot else (None, None)
    if robot is not None:
        camera_of(robot, config.camera)
    console = Console()
    pictures, result = calibrate_source(config, robot, console)
    console.print(summary_table(result))
    for advice in result.coverage.advice():
        print(f"to do better: {advice}")
    if result.comparison.note:
        print(f"to do better: {result.comparison.note}")
    folder = config.folder
    write_camera_info(result.lens, config.camera, folder / f"{config.camera}.yaml")
    write_page(folder / "intrinsics.html", f"Lens of camera '{config.camera}'", intrinsics_sections(result, pictures))
    write_json(folder / "intrinsics.json", result_data(result, config))
    if robot is not None and path is not None:
        camera = replace(camera_of(robot, config.camera), lens=result.lens)
        note = f"intrinsics of {config.camera}: {config.model}, rms {result.rms_px:.3f} px, {len(result.views)} views"
        print(store_camera(robot, path, camera, note))
    for name in (f"{config.camera}.yaml", "intrinsics.html", "intrinsics.json"):
        print(f"wrote {folder / name}")
    return 0


def calibrate_source(
    config: IntrinsicsConfig, robot: RobotSpec | None, console: Console
) -> tuple[Path, IntrinsicsResult]:
    """Takes or reads the pictures and calibrates; returns where they lie, and the result."""
    board = parse_board(config.board)
    pictures = Path(config.source)
    if is_live(config.source):
        pictures = config.folder / "pictures"
        if pictures.is_dir() and any(pictures.iterdir()):
            raise CalibrationError(f"{pictures} holds pictures already: give another --out, or delete them.")
        spec = next((entry for entry in robot.cameras if entry.name == config.camera), None) if robot else None
        size = None if spec is None else (spec.width_px, spec.height_px)
        with Camera(config.source, size_px=size) as camera:
            film = is_film(config.source)
            capture_live(board, camera.frames(), pictures, seconds=config.seconds, film=film, console=console)
    detections = find_boards(board, pictures, console)
    return pictures, calibrate_intrinsics(board, detections, config.model, max_views=config.max_views)


def find_boards(board: Board, pictures: Path, console: Console) -> list[Detection]:
    """Looks for the board in every picture of a folder, with a progress bar."""
    return [
        detect(board, load_picture(path), path.name)
        for path in track(picture_files(pictures), description="looking for the board", console=console)
    ]


def summary_table(result: IntrinsicsResult) -> Table:
    """The table for people."""
    table = Table(title=f"{result.lens.model}, {result.lens.width_px} x {result.lens.height_px} px")
    for head in ("", "value", "standard deviation"):
        table.add_column(head, justify="left" if not head else "right")
    (fx, fy), (cx, cy) = result.lens.focal_px, result.lens.center_px
    for name, value, std in zip(("fx", "fy", "cx", "cy"), (fx, fy, cx, cy), result.std[:4], strict=True):
        table.add_row(f"{name} (px)", f"{value:.2f}", f"{std:.2f}")
    table.add_row("reprojection error (px)", f"{result.rms_px:.3f}", "")
    table.add_row("leave-out error (px)", f"{result.leave_out_px:.3f}", "")
    table.add_row("views used, not used", f"{len(result.views)}, {len(result.rejected)}", "")
    table.add_row("corners left out", result.comparison.where, "")
    return table


def result_data(result: IntrinsicsResult, config: IntrinsicsConfig) -> dict[str, object]:
    """What ``intrinsics.json`` holds."""
    return {
        "camera": config.camera,
        "board": config.board,
        "lens": asdict(result.lens),
        "std": result.std.tolist(),
        "rms_px": result.rms_px,
        "leave_out_px": result.leave_out_px,
        "noise_px": result.noise_px,
        "bad_corners": result.bad_corners,
        "lens_models": asdict(result.comparison),
        "coverage": {name: list(span) for name, span in result.coverage.spans.items()},
        "views": [
            {"picture": view.detection.source, "corners": len(view.detection), "rms_px": round(view.rms_px, 4)}
            for view in result.views
        ],
        "rejected": [{"picture": source, "why": why} for source, why in result.rejected],
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
