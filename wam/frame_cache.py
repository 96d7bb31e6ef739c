"""The file of decoded frames beside a run: it is taken again only for exactly the pictures that it was made of.

Beside it lies a JSON file that says which pictures those are, by content and not by name: the bytes of the films, the
times in them, the size and fit of the result, and what decoded and resized them. It is written last, so frames that a
crash left behind have none. Nothing in it depends on where dataset or run lie.
"""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wam.dataset_meta import write_json
from wam.dataset_tables import DatasetTables
from wam.errors import DatasetError
from wam.robot import RobotSpec

__all__ = ["content_digest", "frames_identity", "is_complete", "new_cache"]

logger = logging.getLogger(__name__)

FORMAT = 1  # raised when other frames come out of the same pictures
WORDS = {"pictures": "other pictures", "size_px": "another size", "fit": "another fit", "decoder": "another decoder"}


def frames_identity(tables: DatasetTables, robot: RobotSpec, image_size_px: tuple[int, int]) -> dict[str, Any]:
    """Everything that decides what is in a file of frames, as JSON data.

    Args:
        tables: Of the dataset. Its films are read from end to end, as they are to check them, but not decoded.
        robot: Whose cameras, in their order.
        image_size_px: (height, width) of the frames.

    Raises:
        DatasetError: A film is missing.
    """
    return {
        "format": FORMAT,
        "pictures": _pictures(tables, robot),
        "size_px": list(image_size_px),
        "fit": [camera.fit for camera in robot.cameras],
        "decoder": _decoder(),
    }


def content_digest(identity: Mapping[str, Any], tables: DatasetTables) -> str:
    """sha256 of all that training takes from a dataset: pictures as recorded, states, actions and instructions."""
    digest = hashlib.sha256(identity["pictures"].encode())
    for values in (tables.length, tables.proprio, tables.action, tables.task_places):
        digest.update(np.ascontiguousarray(values).tobytes())
    digest.update(json.dumps(tables.instructions).encode())
    return digest.hexdigest()


def is_complete(cache: Path, identity: Mapping[str, Any], size: int) -> bool:
    """Whether a file holds these frames, all of them; why one that is there does not is logged.

    Args:
        cache: The file.
        identity: As ``frames_identity`` returns it.
        size: Bytes it must have.
    """
    if not cache.is_file():
        return False
    try:
        found = json.loads(_description(cache).read_text())
    except (OSError, ValueError):
        found = None
    if found == identity and cache.stat().st_size == size:
        return True
    other = [words for name, words in WORDS.items() if isinstance(found, dict) and found.get(name) != identity[name]]
    why = f"are of {' and '.join(other)}" if other else "were left by a run that ended early, or by an older version"
    logger.warning("frames in %s %s: the dataset is decoded anew.", cache, why)
    return False


@contextmanager
def new_cache(cache: Path, identity: Mapping[str, Any]) -> Iterator[Path]:
    """Yields where to write frames; they are in their place, and count, once all has gone well."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    _description(cache).unlink(missing_ok=True)
    partial = cache.with_name(f"{cache.name}.partial")
    try:
        yield partial
        partial.replace(cache)
    finally:
        partial.unlink(missing_ok=True)
    write_json(_description(cache), identity)


def _description(cache: Path) -> Path:
    return cache.with_name(f"{cache.name}.json")


def _pictures(tables: DatasetTables, robot: RobotSpec) -> str:
    digest = hashlib.sha256()
    films: dict[Path, bytes] = {}
    for camera in robot.cameras:
        for episode, part in enumerate(tables.videos[camera.name]):
            if part.path not in films:
                films[part.path] = _film(part.path)
            seconds = tables.seconds[tables.rows(episode)] + part.begin_s
            digest.update(films[part.path])
            digest.update(np.int64(len(seconds)).tobytes())
            digest.update(np.ascontiguousarray(seconds, dtype=np.float64).tobytes())
        digest.update(b"camera")
    return digest.hexdigest()


def _film(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").digest()
    except OSError as error:
        raise DatasetError(f"video {path} cannot be read: {error}. Copy the dataset again.") from error


def _decoder() -> dict[str, str]:
    import av
    import cv2

    libraries = {name: ".".join(map(str, av.library_versions[name])) for name in ("libavcodec", "libswscale")}
    return {"av": av.__version__, "cv2": cv2.__version__, **libraries}
