"""Why no marker of the described board is seen: a mirrored picture, a negative, or markers of another dictionary."""

from functools import lru_cache

import cv2
import numpy as np

from calibration.boards import Board, dictionary_names

__all__ = ["MIRRORED", "sees_markers", "why_unseen"]

MIRRORED = (
    "the board is mirrored: its markers can be read only in the flipped picture. Turn off mirroring in the camera's "
    "driver, or print the board again without it"
)
NEGATIVE = (
    "black and white are exchanged: the markers can be read only in the negative of the picture. Print the board dark "
    "on white, or turn off the inversion in the camera's driver or on the screen that shows it"
)
_BY_CHANCE = 5  # markers that are read where there is none
# The largest dictionary of each kind holds the smaller ones
_KINDS: tuple[str, ...] = (
    *("4X4_1000", "5X5_1000", "6X6_1000", "7X7_1000", "ARUCO_MIP_36h12", "ARUCO_ORIGINAL"),
    *("APRILTAG_16h5", "APRILTAG_25h9", "APRILTAG_36h10", "APRILTAG_36h11"),
)


def why_unseen(board: Board, picture: np.ndarray, *, seen: int = 0) -> str:
    """Looks for markers in other ways than described.

    Args:
        board: The ChArUco board that was described.
        picture: (height, width) uint8.
        seen: Markers that were read as described; another way must show many more.

    Returns:
        What is there instead, with the way out, or "" when there is nothing.
    """
    detector = cv2.aruco.CharucoDetector(board.charuco)
    if sees_markers(detector, picture[:, ::-1], than=seen):
        return MIRRORED
    if sees_markers(detector, 255 - picture, than=seen):
        return NEGATIVE
    found, ids = _other_dictionary(picture)
    if len(ids) <= max(_BY_CHANCE, 2 * seen) or found.split("_")[0] == board.dictionary.split("_")[0] != "APRILTAG":
        return ""
    name = _smallest(found, int(ids.max()))
    return (
        f"{len(ids)} markers of dictionary {name} are visible, but none of {board.dictionary}: describe the board that "
        f"is there, it ends in -{name}"
    )


def sees_markers(detector: cv2.aruco.CharucoDetector, picture: np.ndarray, than: int = 0) -> bool:
    """Many more markers than were read in the picture as it is; a few are read by chance."""
    ids = detector.detectBoard(np.ascontiguousarray(picture))[3]
    return ids is not None and len(ids) > max(_BY_CHANCE, 2 * than)


@lru_cache(maxsize=1)
def _detector() -> cv2.aruco.ArucoDetector | None:
    """A detector of all kinds at once, which older OpenCV lacks; trying each would take seconds a picture."""
    if not hasattr(cv2.aruco.ArucoDetector, "detectMarkersMultiDict"):
        return None
    return cv2.aruco.ArucoDetector(
        tuple(cv2.aruco.getPredefinedDictionary(getattr(cv2.aruco, f"DICT_{name}")) for name in _KINDS)
    )


def _other_dictionary(picture: np.ndarray) -> tuple[str, np.ndarray]:
    """The dictionary of which most markers are read, and their numbers."""
    detector, nothing = _detector(), np.zeros(0, dtype=int)
    if detector is None:
        return "", nothing
    _, ids, _, kinds = detector.detectMarkersMultiDict(np.ascontiguousarray(picture))
    if ids is None or len(ids) == 0:
        return "", nothing
    counts = np.bincount(np.ravel(np.array(kinds, dtype=int)), minlength=len(_KINDS))
    best = int(counts.argmax())
    return _KINDS[best], np.ravel(ids)[np.ravel(kinds) == best]


def _smallest(name: str, highest: int) -> str:
    """The smallest dictionary of a kind that holds a number."""
    kind = name.split("_")[0]
    sizes = [int(other.split("_")[1]) for other in dictionary_names() if other.startswith(f"{kind}_") and "X" in kind]
    return f"{kind}_{min(size for size in sizes if size > highest)}" if sizes else name
