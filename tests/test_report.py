"""The report says what the results say, needs nothing but its folder, and its videos are what browsers play."""

import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from sim.plots import latency_histogram, progress_curves
from sim.report import PipelineView, Stage, duration, render_report, write_report
from sim.results import episode_record, summarise_rows
from sim.rollout import Episode
from sim.statistics import percentiles_ms
from sim.video import (
    EpisodeRecorder,
    Imagination,
    Moment,
    compose_frame,
    compose_strip,
    poster_path,
    strip_path,
    write_mp4,
)
from wam.errors import BundleError
from wam.history import Window
from wam.spec import Observation

RED, GREEN, BLUE = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


def episode(seed: int, outcome: str) -> Episode:
    progress = (0.0, 0.5, 1.0) if outcome == "success" else (0.0, 0.1, 0.2, 0.2)
    return Episode(
        seed=seed, outcome=outcome, steps=len(progress) - 1, seconds=0.3, progress=progress, latency_ms=(4.0, 6.5)
    )


def results(**changed: object) -> dict:
    rows = {
        "policy": [episode(1_000_000 + i, "success" if i % 5 else "timeout") for i in range(20)],
        "expert": [episode(1_000_000 + i, "success") for i in range(10)],
    }
    videos = [
        {"seed": 1_000_000 + i, "outcome": "timeout" if i % 5 == 0 else "success", "first": i < 3}
        | {name: f"videos/seed-{1_000_000 + i}.{end}" for name, end in (("file", "mp4"), ("poster", "jpg"))}
        | {"strip": f"videos/seed-{1_000_000 + i}.png" if i < 2 else None}
        for i in (0, 1, 2, 5)
    ]
    return {
        "task": "lift",
        "split": "test",
        "control_dt": 0.1,
        "command": "wam evaluate --bundle <b> --task lift",
        "settings": {"mode": "async", "n_steps": 0},
        "loop": {"mode": "async", "latency_s": 0.0064, "execution_horizon": 8},
        "n_steps": 4,
        "latency_ms": percentiles_ms([4.0, 6.5] * 20),
        "latency_alone_ms": percentiles_ms([3.0]),
        "versions": {"mujoco": "3.8.1"},
        "git_commit": "0123abc",
        "gl_backend": "egl",
        "backend": "onnx",
        "device": "Some CPU, 2 cores",
        "rows": summarise_rows(rows),
        "videos": videos,
        "episodes": [episode_record(name, each) for name, played in rows.items() for each in played],
        **changed,
    }


class Page(HTMLParser):
    """Collects tags, links and text, and checks that tags nest."""

    VOID = frozenset({"meta", "img", "i", "link", "br"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in {"src", "href", "poster"} and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name.endswith("href") and value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.words))


def test_the_headline_is_the_success_rate_with_its_interval() -> None:
    text = Page(render_report(results())).text
    assert "16 of 20 episodes solved" in text
    assert "80.0 %, with 95 % confidence between 56.3 % and 94.3 %" in text
    assert "latency, 6.4 ms, is in the loop (async)" in text


def test_everything_to_judge_and_repeat_the_result_is_on_the_page() -> None:
    page = Page(render_report(results()))
    for said in (
        "wam evaluate --bundle <b> --task lift",
        "only policy 0, only expert 2, p = 0.5",
        "p99 6.5 ms",
        "Some CPU, 2 cores",
        "0123abc",
        "3.8.1",
        "not solved in time (4)",
    ):
        assert said in page.text, said
    assert page.tags.count("svg") == 3
    assert page.tags.count("video") == 4


def test_every_episode_has_its_square() -> None:
    html = render_report(results())
    assert len(re.findall(r'<(?:span|a) class="(?:success|timeout)"', html)) == 20
    assert '<a class="timeout" href="videos/seed-1000005.mp4"' in html


def test_the_page_loads_nothing_from_elsewhere() -> None:
    html = render_report(results())
    page = Page(html)
    outside = [link for link in page.links if not link.startswith(("videos/", "#"))]
    assert outside == []
    assert not re.search(r"@import|url\((?!#)|<link|src=.?https?:", html)


def test_no_text_can_break_out_into_the_page() -> None:
    html = render_report(results(command="<script>alert(1)</script>"))
    assert "<script>alert(1)" not in html
    assert "&lt;script&gt;alert(1)" in html


def test_videos_of_a_demo_lie_in_a_subfolder() -> None:
    page = Page(render_report(results(), videos_in="evaluate"))
    assert "evaluate/videos/seed-1000000.mp4" in page.links
    assert all(link.startswith(("evaluate/", "#")) for link in page.links)


def test_a_demo_shows_its_stages_and_losses() -> None:
    pipeline = PipelineView(
        command="wam demo --task lift",
        stages=[Stage(name="collect", seconds=65.2, note="300 demonstrations"), Stage(name="train", seconds=400)],
        losses={"action": ([1, 2, 3], [0.5, 0.2, 0.1])},
    )
    page = Page(render_report(results(), pipeline=pipeline))
    assert "7 min 45 s" in page.text
    for said in ("collect", "1 min 05 s", "300 demonstrations", "6 min 40 s", "wam demo --task lift"):
        assert said in page.text, said
    assert page.tags.count("svg") == 4


def test_frozen_results_admit_it_and_a_blind_policy_has_no_histogram() -> None:
    frozen = results(loop={"mode": "frozen", "latency_s": 0.0, "execution_horizon": 8})
    assert "which no robot can do" in Page(render_report(frozen)).text
    bare = results(videos=[])
    for each in bare["episodes"]:
        each["latency_ms"] = []
    page = Page(render_report(bare))
    assert page.tags.count("svg") == 2
    assert "See it" not in page.text


def test_the_report_is_replaced_in_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    write_report(results(), path)
    assert path.read_text().startswith("<!doctype html>")
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]


def test_the_same_results_give_the_same_bytes() -> None:
    assert render_report(results()) == render_report(results())


def test_durations_read_well() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.4, 59.6, 725)] == ["0 s", "59 s", "1 min 00 s", "12 min 05 s"]


def test_plots_take_the_extremes() -> None:
    assert latency_histogram([0.0], percentiles_ms([0.0])).startswith("<svg")
    assert progress_curves({"policy": [[0.0]], "other": [[0.0, 0.5], [0.1]]}, 0.1).startswith("<svg")


def picture(colour: tuple[int, int, int], side: int = 96) -> np.ndarray:
    return np.full((side, side, 3), colour, dtype=np.uint8)


def moment(time: float, imagination: Imagination | None = None) -> Moment:
    images = {"front": picture(RED), "wrist": picture(GREEN)}
    return Moment(time=time, progress=time, images=images, imagination=imagination)


def imagination(stamp: float) -> Imagination:
    return Imagination(stamp=stamp, ahead_s=0.8, seen=picture(RED), imagined=picture(BLUE, side=64))


def test_frames_show_cameras_and_imagination_side_by_side_and_sharp() -> None:
    sharp = picture(RED)
    sharp[::2] = 0  # one-pixel stripes: blurring would make a colour between
    frame = compose_frame(
        Moment(time=0.0, progress=0.0, images={"front": sharp, "wrist": sharp}, imagination=imagination(0.0))
    )
    assert frame.shape == (12 + 384 + 12 + 44, 3 * 384 + 4 * 12, 3)
    panel = frame[12:396, 12:396].reshape(-1, 3)
    assert {tuple(map(int, pixel)) for pixel in np.unique(panel, axis=0)} == {(0, 0, 0), RED}
    assert tuple(frame[200, 2 * 396 + 100]) == BLUE
    assert compose_frame(moment(0.0)).shape[1] == 2 * 384 + 3 * 12


def test_the_last_frame_carries_the_verdict() -> None:
    assert not np.array_equal(compose_frame(moment(0.0)), compose_frame(moment(0.0), verdict="success"))


def test_strips_compare_only_what_came_to_pass() -> None:
    moments = [moment(0.1 * step) for step in range(13)]  # up to 1.2 s
    strip = compose_strip([imagination(stamp) for stamp in (0.0, 0.4, 0.8)], moments, "front")
    assert strip.shape[1] == 140 + 2 * 134  # 0.8 s + 0.8 s lies beyond the end
    assert tuple(strip[22 + 134 + 64, 140 + 64]) == BLUE
    assert tuple(strip[22 + 2 * 134 + 64, 140 + 64]) == RED
    assert compose_strip([], moments, "front") is None
    assert compose_strip([imagination(0.8)], moments, "front") is None


def test_videos_are_h264_that_browsers_play(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "video.mp4"
    frames = [compose_frame(moment(0.1 * step)) for step in range(12)]
    write_mp4(path, frames, rate_hz=10.0)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 10)
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(decoded) == 12
    assert np.abs(decoded[5].astype(int) - frames[5].astype(int)).mean() < 4
    # The index stands before the pictures, so that a browser can begin at once.
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


class StillSim:
    """Cameras that show one colour each."""

    control_dt = 0.1
    robot = SimpleNamespace(camera_names=("front", "wrist"))

    def __init__(self) -> None:
        self.step = 0

    def progress(self) -> float:
        return 0.5

    def observation(self) -> Observation:
        images = {"front": picture(RED), "wrist": picture(GREEN)}
        return Observation(images=images, proprio=np.zeros(7, np.float32), task="look", stamp=0.1 * self.step)


def test_recorder_imagines_now_and_then_and_writes_all_three_files(tmp_path: Path) -> None:
    stamps = []

    def imagine(observation: Observation, *, noise_seed: int) -> dict[str, np.ndarray]:
        stamps.append(observation.stamp)
        return {"front": picture(BLUE, side=64), "wrist": picture(BLUE, side=64)}

    manifest = SimpleNamespace(model=SimpleNamespace(future_offset=8))
    policy = SimpleNamespace(imagine=imagine, manifest=manifest, window=Window())
    sim = StillSim()
    recorder = EpisodeRecorder(sim, policy)
    for sim.step in range(13):
        recorder.sampled(sim)
    recorder.write(tmp_path / "a.mp4", episode(1, "success"))
    assert stamps == pytest.approx([0.0, 0.4, 0.8, 1.2])
    for path in (tmp_path / "a.mp4", poster_path(tmp_path / "a.mp4"), strip_path(tmp_path / "a.mp4")):
        assert path.stat().st_size > 1000


def test_a_policy_that_cannot_imagine_still_gets_a_video(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def imagine(observation: Observation, *, noise_seed: int) -> dict[str, np.ndarray]:
        raise BundleError("torch is not installed")

    sim = StillSim()
    recorder = EpisodeRecorder(sim, SimpleNamespace(imagine=imagine, window=Window()))
    for sim.step in range(3):
        recorder.sampled(sim)
    recorder.write(tmp_path / "a.mp4", episode(1, "timeout"))
    assert (tmp_path / "a.mp4").is_file()
    assert not strip_path(tmp_path / "a.mp4").exists()
    assert caplog.messages == ["videos go without the imagined future: torch is not installed"]
