"""Takes pictures of a board from a live camera until they cover what a lens calibration needs, and shows how far it is.

A picture is kept when the board is found in it, it is sharp, it stands still, and no kept picture is like it. The
terminal shows coverage and what to do next; the same as a picture is written beside them for a screen near the camera.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.table import Table

from calibration.boards import Board
from calibration.detection import Detection, detect
from calibration.drawings import coverage_picture
from calibration.errors import CalibrationError
from calibration.robust_fit import MIN_VIEWS
from calibration.view_selection import Coverage, blurred, coverage, select_views

__all__ = ["ENOUGH_VIEWS", "LiveCapture", "capture_live", "coverage_panel"]

ENOUGH_VIEWS = 25
_STILL_PX = 1.5  # per 640 px of width: how far the board may move in a 30th of a second
_USUAL_RATE_HZ = 30.0
_SELDOM_S = 1 / 15  # pictures further apart do not tell whether the board stood still in one; sharpness does
_COVERAGE_PICTURE = "coverage.png"


@dataclass(frozen=True, kw_only=True)
class LiveCapture:
    """Views that were kept so far."""

    board: Board
    folder: Path
    film: bool = False  # nobody can be asked to hold the board still
    views: tuple[Detection, ...] = ()
    reasons: Mapping[str, int] = field(default_factory=dict)  # why pictures were not kept -> how many

    @property
    def coverage(self) -> Coverage:
        """Of the kept views."""
        return coverage(self.board, self.views)

    @property
    def complete(self) -> bool:
        """There are enough views and they cover what they should."""
        return len(self.views) >= ENOUGH_VIEWS and not self.coverage.advice()

    def offered(
        self, image: np.ndarray, before: Detection | None, seconds: float = 1 / _USUAL_RATE_HZ
    ) -> tuple["LiveCapture", Detection, str]:
        """Looks at one picture.

        Args:
            image: (height, width, 3) rgb_hwc_u8.
            before: What the picture before it showed.
            seconds: Since that picture [s]; in a film of few pictures a second the board may move further.

        Returns:
            The capture, with this picture when it is worth keeping; what it shows; and why it was not kept or "kept".
        """
        name = f"{len(self.views):04d}.png"
        view = detect(self.board, image, name, thorough=False)
        if view.problem:
            return self, view, view.problem
        seldom = self.film and seconds > _SELDOM_S
        if not seldom and (before is None or before.problem or not _still(before, view, seconds)):
            return self, view, "hold the board still"
        if len(self.views) in blurred([*self.views, view]):
            return self, view, "blurred: more light, or hold the board stiller"
        if len(self.views) not in select_views(self.board, [*self.views, view], limit=10_000).chosen and self.views:
            return self, view, "like a picture that is there already: move or tilt the board"
        self.folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(self.folder / name), cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        return replace(self, views=(*self.views, view)), view, "kept"

    def nothing(self) -> str:
        """Says why no picture was kept."""
        common = sorted(self.reasons.items(), key=lambda entry: -entry[1])[:3]
        listing = "; ".join(f"{count} x {reason}" for reason, count in common) or "there was no picture"
        return (
            f"no picture of the board {self.board} was kept: {listing}. Hold the board still for a moment in every "
            "place and tilt, well lit, and check that it is the board that was described."
        )


def capture_live(
    board: Board,
    frames: Iterable[tuple[float, np.ndarray]],
    folder: Path,
    *,
    seconds: float,
    film: bool = False,
    console: Console | None = None,
    on_kept: Callable[[LiveCapture], None] = lambda _: None,
) -> LiveCapture:
    """Takes pictures until they suffice, the time is up or someone presses Ctrl-C.

    Args:
        board: What to look for.
        frames: Time [s] and picture, endless.
        folder: Where kept pictures and the coverage picture go.
        seconds: Upper bound on the time [s].
        film: It is a recorded film: of few pictures a second, every sharp one is good.
        console: Where to show progress.
        on_kept: Told of each kept picture.

    Raises:
        CalibrationError: Not one picture was worth keeping.
    """
    capture, before, begin, last = LiveCapture(board=board, folder=folder, film=film), None, None, None
    reasons: Counter[str] = Counter()
    with Live(console=console or Console(), refresh_per_second=8, transient=False) as live:
        try:
            for now, image in frames:
                begin = now if begin is None else begin
                count = len(capture.views)
                capture, before, said = capture.offered(image, before, 0.0 if last is None else now - last)
                last = now
                reasons[said] += 1
                if len(capture.views) > count:
                    picture = coverage_picture(capture.views, capture.coverage)
                    cv2.imwrite(str(folder / _COVERAGE_PICTURE), cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
                    on_kept(capture)
                live.update(coverage_panel(capture.coverage, len(capture.views), said))
                if capture.complete or now - begin > seconds:
                    break
        except KeyboardInterrupt:
            if len(capture.views) < MIN_VIEWS:
                raise
    capture = replace(capture, reasons=reasons)
    if not capture.views:
        raise CalibrationError(capture.nothing())
    (folder / _COVERAGE_PICTURE).unlink(missing_ok=True)  # it is no picture of the board
    return capture


def coverage_panel(spread: Coverage, count: int, said: str) -> Panel:
    """What the terminal shows."""
    table = Table.grid(padding=(0, 1))
    for name, share in {**spread.shares, "filled": min(1.0, spread.filled / 0.75)}.items():
        done = round(24 * share)
        colour = "green" if share >= 1 else "yellow"
        table.add_row(name, f"[{colour}]{'█' * done}[/][dim]{'░' * (24 - done)}[/]", f"{100 * share:3.0f} %")
    advice = "; ".join(spread.advice()) if count else "show the board to the camera"
    table.add_row("", f"{count} pictures; {said}", "")
    table.add_row("", f"next: {advice}" if advice else "complete", "")
    return Panel(table, title="coverage", expand=False)


def _still(before: Detection, now: Detection, seconds: float) -> bool:
    common, first, second = np.intersect1d(before.ids, now.ids, return_indices=True)
    if len(common) < 4:
        return False
    moved = np.linalg.norm(before.pixels[first] - now.pixels[second], axis=1)
    pictures = max(1.0, seconds * _USUAL_RATE_HZ)
    return float(np.median(moved)) < pictures * _STILL_PX * now.size_px[0] / 640
