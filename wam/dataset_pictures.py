"""Recorded pictures beside the robot file's cameras: sizes and aspects, read from the heads of the films.

The same view at another size teaches the same places, only more or less sharply; another aspect is another view, in
which things lie elsewhere than where the policy will see them on the robot.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from wam.dataset_files import raise_together
from wam.dataset_names import ReadAs
from wam.dataset_tables import DatasetTables
from wam.errors import DatasetError
from wam.films import FilmHeader, read_header
from wam.picture_fit import fit_note, same_aspect
from wam.robot import CameraSpec, RobotSpec
from wam.spec import image_key

__all__ = ["ANY_ASPECT", "aspect_refusal", "check_pictures", "fit_notes", "picture_headers"]

ANY_ASPECT = "--any-aspect"


def picture_headers(tables: DatasetTables) -> dict[str, tuple[FilmHeader, ...]]:
    """Camera → what its films say of their pictures, each once; unreadable ones are left out."""
    found: dict[str, tuple[FilmHeader, ...]] = {}
    for camera, parts in tables.videos.items():
        headers = (_header(path) for path in dict.fromkeys(part.path for part in parts))
        found[camera] = tuple(dict.fromkeys(header for header in headers if header is not None))
    return found


def check_pictures(
    root: Path, headers: Mapping[str, Sequence[FilmHeader]], robot: RobotSpec, read_as: ReadAs
) -> list[str]:
    """Compares recorded pictures with the cameras of the robot file.

    Args:
        root: The dataset.
        headers: As ``picture_headers`` returns them.
        robot: Whose cameras.
        read_as: What a person says about the dataset.

    Returns:
        What is no fault but is to be said.

    Raises:
        DatasetError: Pictures have another aspect than their camera, and nobody said that this is meant.
    """
    notes, faults = [], []
    for camera in robot.cameras:
        key, gives = read_as.key(image_key(camera.name)), (camera.width_px, camera.height_px)
        for header in headers.get(camera.name, ()):
            found = header.size_px
            if not header.colours:
                notes.append(f"'{key}' has no colours: pictures of a colour camera would be new to the policy")
            if not same_aspect(found, gives) and not read_as.any_aspect:
                fix = f"if it is another camera's, name the right one, --keys {image_key(camera.name)}=ITS_NAME"
                faults.append(DatasetError(aspect_refusal(f"dataset {root}: '{key}'", found, camera, robot, fix)))
            elif found != gives:
                what = "the same view" if same_aspect(found, gives) else "another view"
                notes.append(
                    f"'{key}' is {_size(found)} px but camera '{camera.name}' of robot '{robot.name}' gives "
                    f"{_size(gives)}: {what}, {'sharper' if found > gives else 'less sharp'} than on the robot"
                )
    raise_together(faults)
    return notes


def aspect_refusal(what: str, found: tuple[int, int], camera: CameraSpec, robot: RobotSpec, fix: str) -> str:
    """The message for pictures of another aspect than their camera's.

    Args:
        what: Begins the sentence.
        found: (width, height) of the pictures.
        camera: Of the robot file.
        robot: Its robot.
        fix: One more way out, in words.
    """
    gives = (camera.width_px, camera.height_px)
    return (
        f"{what} is {_size(found)} px but camera '{camera.name}' of robot '{robot.name}' gives {_size(gives)}, another "
        f"aspect ({found[0] / found[1]:.2f} and {gives[0] / gives[1]:.2f}): things would lie elsewhere in the policy's "
        f"pictures than on the robot. If the camera gives {_size(found)}, write width_px: {found[0]} and height_px: "
        f"{found[1]} for it into the robot file; {fix}; if it is meant so, each is fitted for itself (fit: "
        f"{camera.fit}) with {ANY_ASPECT}"
    )


def fit_notes(
    headers: Mapping[str, Sequence[FilmHeader]], robot: RobotSpec, image_size_px: tuple[int, int]
) -> list[str]:
    """What becomes of the pictures on the way to the model's size, where their aspect is another.

    Args:
        headers: As ``picture_headers`` returns them.
        robot: Its cameras say how.
        image_size_px: (height, width) of the model's pictures.
    """
    said = [
        fit_note(camera.name, header.size_px[::-1], image_size_px, camera.fit)
        for camera in robot.cameras
        for header in headers.get(camera.name, ())
    ]
    return [note for note in dict.fromkeys(said) if note]


def _header(path: Path) -> FilmHeader | None:
    try:
        return read_header(path)
    except DatasetError:
        return None


def _size(size_px: tuple[int, int]) -> str:
    return f"{size_px[0]}x{size_px[1]}"
