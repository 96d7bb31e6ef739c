"""Videos of episodes: what the cameras saw and, beside it, what the policy imagined they would see.

One panel per camera and one with the imagined future of the first camera, pixels repeated rather than blurred, captions
below, H.264 at the control rate, so one second of video is one second of robot time. Beside the mp4 a strip shows for a
few moments what was seen, what was imagined from it and what happened.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from pathlib import Path

import av
import cv2
import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from policy.history import ObservationHistory
from policy.runner import Policy
from sim.arm_sim import ArmSim
from sim.rollout import Episode
from wam.errors import WamError
from wam.history import Window
from wam.spec import Observation

__all__ = [
    "EpisodeRecorder",
    "Imagination",
    "Moment",
    "compose_frame",
    "compose_strip",
    "poster_path",
    "strip_path",
    "write_mp4",
]

_log = logging.getLogger(__name__)

PANEL_PX = 384  # side of a panel: a whole multiple of 96 and of 64, so that every pixel is repeated equally often
GAP_PX = 12
CAPTION_PX = 44
STRIP_PX = 128  # side of a picture in the strip
STRIP_COLUMNS = 6
POSTER_AT = 0.7  # share of the episode at which the poster is taken: the arm is usually at the object then
IMAGINE_EVERY_SECONDS = 0.4  # often enough that even a short episode shows a few
END_SECONDS = 0.8  # the last frame stays this long, with the verdict
BACKGROUND, INK, MUTED = (255, 255, 255), (30, 41, 59), (100, 116, 139)
GOOD, BAD = (15, 118, 110), (194, 65, 12)  # also told apart by people who confuse red and green


@dataclass(frozen=True, kw_only=True)
class Imagination:
    """What the policy expects the first camera to see, and from what."""

    stamp: float  # time of the observation it was imagined from [s]
    ahead_s: float  # how far ahead it lies [s]
    seen: np.ndarray  # rgb_hwc_u8, the observation's first camera
    imagined: np.ndarray  # rgb_hwc_u8, model size


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One control step as a watcher saw it."""

    time: float  # simulated time [s]
    progress: float  # [0, 1]
    images: dict[str, np.ndarray]  # camera -> rgb_hwc_u8
    imagination: Imagination | None  # the latest


class EpisodeRecorder:
    """A ``sim.rollout.Watcher`` that keeps every frame and writes them at the end."""

    def __init__(self, sim: ArmSim, policy: Policy | None) -> None:
        """Watches a simulation.

        Args:
            sim: Whose cameras are recorded.
            policy: Who imagines; None for a video without the imagined panel.
        """
        self._cameras = sim.robot.camera_names
        self._control_dt = sim.control_dt
        self._policy = policy
        self._history = ObservationHistory(policy.window if policy else Window())
        self._moments: list[Moment] = []
        self._imaginations: list[Imagination] = []

    def sampled(self, sim: ArmSim) -> None:
        """Keeps the frames of this control step, and imagines when it is time again."""
        observation = self._history.add(sim.observation())
        self._imagine(observation)
        self._moments.append(
            Moment(
                time=observation.stamp,
                progress=sim.progress(),
                images={name: image.copy() for name, image in observation.images.items()},
                imagination=self._imaginations[-1] if self._imaginations else None,
            )
        )

    def write(self, path: Path, episode: Episode) -> None:
        """Writes the mp4, its poster and, when something was imagined, the strip beside it."""
        frames = [compose_frame(moment) for moment in self._moments]
        verdict = compose_frame(self._moments[-1], verdict=episode.outcome)
        frames += [verdict] * max(1, round(END_SECONDS / self._control_dt))
        write_mp4(path, frames, rate_hz=1 / self._control_dt)
        Image.fromarray(frames[round(POSTER_AT * len(self._moments))]).save(poster_path(path), quality=88)
        strip = compose_strip(self._imaginations, self._moments, self._cameras[0])
        if strip is not None:
            Image.fromarray(strip).save(strip_path(path))

    def _imagine(self, observation: Observation) -> None:
        due = not self._imaginations or observation.stamp - self._imaginations[-1].stamp >= IMAGINE_EVERY_SECONDS - 1e-6
        if self._policy is None or not due:
            return
        camera = self._cameras[0]
        try:
            imagined = self._policy.imagine(observation, noise_seed=len(self._imaginations))[camera]
        except WamError as error:
            _log.warning("videos go without the imagined future: %s", error)
            self._policy = None
            return
        ahead_s = self._policy.manifest.model.future_offset * self._control_dt
        seen = observation.images[camera].copy()
        self._imaginations.append(Imagination(stamp=observation.stamp, ahead_s=ahead_s, seen=seen, imagined=imagined))


def poster_path(video: Path) -> Path:
    """Where the picture lies that stands for a video until it plays."""
    return video.with_suffix(".jpg")


def strip_path(video: Path) -> Path:
    """Where the strip that belongs to a video lies."""
    return video.with_suffix(".png")


def compose_frame(moment: Moment, *, verdict: str = "") -> np.ndarray:
    """Draws one video frame.

    Args:
        moment: What to draw.
        verdict: Outcome of the episode, on its last frame.

    Returns:
        (height, width, 3) rgb_hwc_u8, height and width even, as H.264 wants them.
    """
    panels = [(name, f"t = {moment.time:.1f} s", image) for name, image in moment.images.items()]
    future = moment.imagination
    if future is not None:
        note = f"at t = {future.stamp:.1f} s for {future.stamp + future.ahead_s:.1f} s"
        panels.append((f"imagined {next(iter(moment.images))}", note, future.imagined))
    width = len(panels) * PANEL_PX + (len(panels) + 1) * GAP_PX
    canvas = Image.new("RGB", (width + width % 2, PANEL_PX + 2 * GAP_PX + CAPTION_PX), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for i, (title, note, image) in enumerate(panels):
        left = GAP_PX + i * (PANEL_PX + GAP_PX)
        canvas.paste(Image.fromarray(_enlarged(image, PANEL_PX)), (left, GAP_PX))
        _caption(draw, left, PANEL_PX + GAP_PX + 6, title, note)
    _progress_bar(draw, canvas.size, moment.progress)
    if verdict:
        _verdict(draw, verdict)
    return np.asarray(canvas)


def compose_strip(futures: Sequence[Imagination], moments: Sequence[Moment], camera: str) -> np.ndarray | None:
    """Draws what was seen, what was imagined from it and what happened, for a few moments of an episode.

    Args:
        futures: Every imagination of the episode, in order.
        moments: Every control step of the episode, in order.
        camera: Whose pictures to show.

    Returns:
        (height, width, 3) rgb_hwc_u8, or None when no imagined moment came before the end.
    """
    known = [future for future in futures if future.stamp + future.ahead_s <= moments[-1].time + 1e-6]
    if not known:
        return None
    chosen = [known[i] for i in sorted({round(x) for x in np.linspace(0, len(known) - 1, STRIP_COLUMNS)})]
    label_px, top, step = 140, CAPTION_PX // 2, STRIP_PX + GAP_PX // 2
    canvas = Image.new("RGB", (label_px + len(chosen) * step, top + 3 * step), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    for row, label in enumerate(("seen", f"imagined\n{chosen[0].ahead_s:.1f} s ahead", "what happened")):
        draw.text((4, top + row * step + STRIP_PX // 2 - 14), label, fill=INK, font=_font(15))
    for column, future in enumerate(chosen):
        due = future.stamp + future.ahead_s
        happened = min(moments, key=lambda moment, due=due: abs(moment.time - due)).images[camera]
        left = label_px + column * step
        draw.text((left, 2), f"t = {future.stamp:.1f} s", fill=MUTED, font=_font(14))
        for row, image in enumerate((future.seen, future.imagined, happened)):
            canvas.paste(Image.fromarray(_enlarged(image, STRIP_PX)), (left, top + row * step))
    return np.asarray(canvas)


def write_mp4(path: Path, frames: Iterable[np.ndarray], *, rate_hz: float) -> None:
    """Writes H.264 in an mp4 that browsers play from its first byte.

    Args:
        path: Target; its folder is made.
        frames: (height, width, 3) rgb_hwc_u8, all of one even size.
        rate_hz: Frames per second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as container:
        rate = Fraction(rate_hz).limit_denominator(1000)
        stream = container.add_stream("libx264", rate=rate, options={"preset": "veryfast", "crf": "20"})
        stream.pix_fmt = "yuv420p"  # the only one every browser decodes
        stream.codec_context.thread_count = 1
        for frame in frames:
            stream.height, stream.width = frame.shape[:2]
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


@cache
def _font(size_px: int) -> ImageFont.FreeTypeFont:
    # matplotlib brings this font along, so captions look the same on every machine.
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf", size_px)


def _enlarged(image: np.ndarray, side_px: int) -> np.ndarray:
    """Fits an image into a square, repeating pixels; bars keep the aspect ratio."""
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    interpolation = cv2.INTER_NEAREST if scale >= 1 else cv2.INTER_AREA
    square = np.full((side_px, side_px, 3), 255, dtype=np.uint8)
    top, left = (side_px - size[1]) // 2, (side_px - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = cv2.resize(image, size, interpolation=interpolation)
    return square


def _caption(draw: ImageDraw.ImageDraw, left: int, top: int, title: str, note: str) -> None:
    draw.text((left, top), title, fill=INK, font=_font(18))
    right = left + PANEL_PX - draw.textlength(note, font=_font(15))
    draw.text((right, top + 2), note, fill=MUTED, font=_font(15))


def _progress_bar(draw: ImageDraw.ImageDraw, size: tuple[int, int], progress: float) -> None:
    top, right = size[1] - 8, size[0] - GAP_PX
    draw.rectangle((GAP_PX, top, right, top + 4), fill=(226, 232, 240))
    draw.rectangle((GAP_PX, top, GAP_PX + progress * (right - GAP_PX), top + 4), fill=GOOD)


def _verdict(draw: ImageDraw.ImageDraw, outcome: str) -> None:
    colour = GOOD if outcome == "success" else BAD
    text_px = draw.textlength(outcome, font=_font(22))
    draw.rectangle((GAP_PX, GAP_PX, GAP_PX + text_px + 24, GAP_PX + 38), fill=colour)
    draw.text((GAP_PX + 12, GAP_PX + 5), outcome, fill=(255, 255, 255), font=_font(22))
