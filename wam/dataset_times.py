"""Rows and times of a dataset: every row where it belongs, every picture beside the row it was taken with.

Videos are demuxed, not decoded: the times of the packets tell a missing, cut or shifted film in milliseconds.

Shape legend: M rows, F frames of a video.
"""

from pathlib import Path

import numpy as np

from wam.dataset_episodes import VideoPart
from wam.dataset_files import FIX
from wam.dataset_tables import DatasetTables
from wam.errors import DatasetError
from wam.films import tolerance_s
from wam.spec import image_key

__all__ = ["check_episode_rows", "check_offsets", "check_timestamps", "check_videos"]

SLACK_FRAMES = 1.5  # LeRobot's durations are those of the film's container, which may miss a frame
LOST = "nobody can tell which picture belongs to which row"


def check_episode_rows(tables: DatasetTables) -> None:
    """Every episode has the rows it promises, in order, one after the other.

    Raises:
        DatasetError: Names the first episode and its numbers.
    """
    found = np.bincount(tables.episode.clip(0), minlength=len(tables.length))
    strange = (tables.episode < 0) | (tables.episode >= len(tables.length))
    if strange.any():
        path, row = tables.place(int(strange.argmax()))
        raise DatasetError(
            f"{path}: row {row} is of episode {tables.episode[strange][0]} but meta/episodes lists "
            f"{len(tables.length)}: {FIX}"
        )
    for episode, (rows, promised) in enumerate(zip(found, tables.length, strict=True)):
        if rows != promised:
            raise DatasetError(
                f"dataset {tables.root}: episode {episode} has {rows} rows in its data file but {promised} frames in "
                f"meta/episodes: {FIX}"
            )
    expected = np.concatenate([np.arange(count) for count in tables.length])
    owners = np.repeat(np.arange(len(tables.length)), tables.length)
    wrong = (tables.frame != expected) | (tables.episode != owners)
    if wrong.any():
        raise DatasetError(_disorder(tables, int(wrong.argmax()), expected, owners))
    if tables.index is not None and not np.array_equal(tables.index, np.arange(len(owners))):
        row = int((tables.index != np.arange(len(owners))).argmax())
        path, place = tables.place(row)
        raise DatasetError(
            f"{path}: column 'index' is {tables.index[row]} in row {place} (episode {owners[row]}) but must count the "
            f"rows of the dataset, {row} here: rows were lost or files exchanged; {FIX}"
        )
    ends = np.cumsum(tables.length)
    spans = np.stack((ends - tables.length, ends), axis=1)
    if tables.spans is not None and not np.array_equal(tables.spans, spans):
        episode = int((tables.spans != spans).any(axis=1).argmax())
        raise DatasetError(
            f"{tables.root}/meta/episodes: episode {episode} says rows {tables.spans[episode][0]} to "
            f"{tables.spans[episode][1]} but the lengths say {spans[episode][0]} to {spans[episode][1]}: {FIX}"
        )


def _disorder(tables: DatasetTables, row: int, expected: np.ndarray, owners: np.ndarray) -> str:
    path, place = tables.place(row)
    some = slice(row, row + 4)
    file = int(np.searchsorted(tables.first_row, row, side="right")) - 1
    end = tables.first_row[file + 1] if file + 1 < len(tables.first_row) else len(tables.frame)
    part = slice(int(tables.first_row[file]), int(end))
    order = np.lexsort((tables.frame[part], tables.episode[part]))
    sortable = np.array_equal(tables.frame[part][order], expected[part]) and np.array_equal(
        tables.episode[part][order], owners[part]
    )
    said = (
        f"{path}: from row {place} on, episode {owners[row]} has frame_index "
        f"{', '.join(map(str, tables.frame[some]))} (episode_index {tables.episode[row]}) where "
        f"{', '.join(map(str, expected[some]))} is expected: {LOST}"
    )
    if not sortable:
        return f"{said}; frames are missing or occur twice; {FIX}"
    return (
        f"{said}. The rows are only out of order: sort them, python -c \"import pyarrow.parquet as q; p = '{path}'; "
        "q.write_table(q.read_table(p).sort_by([('episode_index', 'ascending'), ('frame_index', 'ascending')]), p)\""
    )


def check_timestamps(tables: DatasetTables) -> None:
    """Every timestamp is its frame's number over the rate.

    Raises:
        DatasetError: Says which episode, what its times are, and what they should be.
    """
    wanted = tables.frame / tables.fps
    wrong = ~(np.abs(tables.seconds - wanted) <= tolerance_s(wanted))  # also True for NaN
    if not wrong.any():
        return
    row = int(wrong.argmax())
    episode = int(tables.episode[row])
    mine = tables.episode == episode
    path, _ = tables.place(row)
    count = len(np.unique(tables.episode[wrong]))
    raise DatasetError(
        f"{path}: episode {episode} ({count} of {len(tables.length)} episodes are so) {_times(tables, mine, row)}. "
        f"{LOST.capitalize()}. If info.json is wrong, correct its fps; if the frames are {tables.fps:g} per second, "
        f"write the times anew: python -c \"import pyarrow as a, pyarrow.parquet as q; p = '{path}'; t = "
        "q.read_table(p); "
        f"s = a.array([i / {tables.fps:g} for i in t['frame_index'].to_pylist()], 'float32'); "
        "q.write_table(t.set_column(t.column_names.index('timestamp'), 'timestamp', s), p)\""
    )


def _times(tables: DatasetTables, mine: np.ndarray, row: int) -> str:
    seconds = tables.seconds[mine]
    steps = np.diff(seconds)
    said = f"timestamp {tables.seconds[row]:.4f} s at frame {tables.frame[row]}"
    should = f"but frame_index over {tables.fps:g} frames per second is {tables.frame[row] / tables.fps:.4f} s"
    if len(seconds) > 1 and not seconds.any():
        return "has timestamp 0 in every row"
    if len(steps) and np.isfinite(steps).all() and steps.min() > 0 and np.ptp(steps) < 0.01 * steps.mean() + 1e-6:
        if abs(steps.mean() * tables.fps - 1) < 0.01:
            return f"has {said}, {should}: its times do not begin at 0"
        return (
            f"has timestamps {steps.mean():.4f} s apart, which is {1 / steps.mean():.4g} frames per second, but "
            f"info.json says {tables.fps:g}: the arm would move {1 / (steps.mean() * tables.fps):.3g} times as slowly "
            "as it was shown"
        )
    return f"has {said}, {should}"


def check_offsets(tables: DatasetTables) -> None:
    """What ``meta/episodes`` says about films agrees with the lengths, and no two episodes share a picture.

    Raises:
        DatasetError: Names camera, episode and numbers.
    """
    for camera, parts in tables.videos.items():
        reached: dict[Path, tuple[float, int]] = {}
        for episode, (part, count) in enumerate(zip(parts, tables.length, strict=True)):
            last, before = reached.get(part.path, (0.0, -1))
            _check_offset(tables, camera, episode, part, (last, before))
            reached[part.path] = (part.begin_s + count / tables.fps, episode)


def _check_offset(
    tables: DatasetTables, camera: str, episode: int, part: VideoPart, reached: tuple[float, int]
) -> None:
    frame_s = 1 / tables.fps
    length_s = float(tables.length[episode]) * frame_s
    where = f"{tables.root}/meta/episodes: episode {episode} of '{image_key(camera)}'"
    span = f"{part.begin_s:.4f} to {part.end_s:.4f} s of {part.path.name}"
    if not abs(part.end_s - part.begin_s - length_s) <= SLACK_FRAMES * frame_s:
        raise DatasetError(
            f"{where} takes {span}, {part.end_s - part.begin_s:.4f} s, but its {tables.length[episode]} frames at "
            f"{tables.fps:g} per second last {length_s:.4f} s: {LOST}; {FIX}"
        )
    if part.begin_s < reached[0] - 0.5 * frame_s:
        said = f"episode {reached[1]} before it in that film lasts until {reached[0]:.4f} s" if reached[1] >= 0 else ""
        raise DatasetError(
            f"{where} takes {span} but {said or 'a film begins at 0 s'}: its pictures would be another episode's; the "
            f"offsets (from_timestamp) were exchanged or counted wrongly; {FIX}"
        )


def check_videos(tables: DatasetTables) -> None:
    """Every row has its picture: films are whole, and have a frame at each time that is asked for.

    Raises:
        DatasetError: A film is missing, cut or damaged, or has no frame at an episode's times.
    """
    start = np.cumsum(tables.length) - tables.length
    for camera, parts in tables.videos.items():
        owners: dict[Path, list[int]] = {}
        for episode, part in enumerate(parts):
            owners.setdefault(part.path, []).append(episode)
        for path, episodes in owners.items():
            times = frame_times(path)
            expected = int(tables.length[episodes].sum())
            if len(times) < expected:
                raise DatasetError(
                    f"{path} holds {len(times)} frames but episodes {min(episodes)} to {max(episodes)} need "
                    f"{expected}: the video was truncated or replaced; {FIX}"
                )
            for episode in episodes:
                rows = slice(int(start[episode]), int(start[episode] + tables.length[episode]))
                _check_frames(tables, camera, episode, parts[episode], times, rows)


def _check_frames(
    tables: DatasetTables, camera: str, episode: int, part: VideoPart, times: np.ndarray, rows: slice
) -> None:
    asked = tables.seconds[rows] + part.begin_s
    after = np.searchsorted(times, asked).clip(1, max(1, len(times) - 1)).clip(max=len(times) - 1)
    nearest = np.minimum(np.abs(times[after] - asked), np.abs(times[after - 1] - asked))
    wrong = ~(nearest < tolerance_s(asked))
    if not wrong.any():
        return
    frame = int(wrong.argmax())
    rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 and times[-1] > times[0] else 0.0
    raise DatasetError(
        f"episode {episode} of '{image_key(camera)}' asks for a picture at {asked[frame]:.4f} s of {part.path} (frame "
        f"{frame}; {int(wrong.sum())} of {len(asked)} frames), but the nearest is {nearest[frame]:.4f} s away: the "
        f"film has {len(times)} frames from {times[0]:.4f} to {times[-1]:.4f} s, {rate:.4g} per second, and the "
        f"episode begins at {part.begin_s:.4f} s by meta/episodes (from_timestamp). Correct the offset, or {FIX}"
    )


def frame_times(path: Path) -> np.ndarray:
    """(F,) float64 times of a film's frames [s], in order.

    Raises:
        DatasetError: The file is missing or no film.
    """
    import av

    if not path.is_file():
        raise DatasetError(f"{path} is missing: {FIX}")
    times = []
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            for packet in container.demux(stream):
                if packet.size and not packet.is_corrupt and packet.pts is not None:
                    times.append(float(packet.pts * stream.time_base))
    except (av.error.FFmpegError, IndexError, TypeError) as error:
        raise DatasetError(f"{path} cannot be read ({error}): it was truncated or damaged; {FIX}") from error
    return np.sort(np.array(times))
