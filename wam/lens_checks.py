"""Can these intrinsics belong to pictures of this size? Numbers of another size, or in another unit, cannot.

A matrix for 1280 x 720 px read for 640 x 360 px points every ray somewhere else, and nothing downstream notices.
"""

__all__ = ["MAX_SIDE_PX", "intrinsics_problem"]

MAX_SIDE_PX = 32_768  # the largest sensors have half of it; beyond it somebody's memory would fill
_FOCAL_SHARES = (0.05, 200.0)  # of the longer side: from beyond any fisheye to a telescope
_PIXEL_SHAPES = (0.4, 2.5)  # fx / fy, with room for pictures that were stretched
_OFF_CENTER = 0.15  # a principal point this far out in both directions ...
_ALIKE = 0.04  # ... and by the same share of both sides is that of another picture size


def intrinsics_problem(size_px: tuple[int, int], focal_px: tuple[float, float], center_px: tuple[float, float]) -> str:
    """Compares intrinsics with the picture they are for.

    Args:
        size_px: Width and height of the picture.
        focal_px: fx, fy [px].
        center_px: Principal point cx, cy [px].

    Returns:
        What is wrong and what to do, or "".
    """
    width, height = size_px
    (fx, fy), (cx, cy) = focal_px, center_px
    size = f"pictures of {width} x {height} px"
    if not (0 < width <= MAX_SIDE_PX and 0 < height <= MAX_SIDE_PX):
        return f"the image size {width} x {height} px is impossible: sides have 1 to {MAX_SIDE_PX} px"
    if min(fx, fy) <= 0:
        return f"the focal length is {fx:g}, {fy:g} px but must be positive: the camera is not calibrated"
    low, high = (share * max(size_px) for share in _FOCAL_SHARES)
    if not (low <= fx <= high and low <= fy <= high):
        return f"a focal length of {fx:g}, {fy:g} px cannot belong to {size}: write it in pixels of that size"
    if not _PIXEL_SHAPES[0] <= fx / fy <= _PIXEL_SHAPES[1]:
        return f"the focal lengths {fx:g} and {fy:g} px differ too much for one lens: check both, and their order"
    across, down = (cx + 0.5) / width, (cy + 0.5) / height
    if not (0 <= across <= 1 and 0 <= down <= 1):
        return (
            f"the principal point {cx:g}, {cy:g} px lies outside {size}: the numbers are of another image size, or in "
            "another order. Calibrate at the size that is used"
        )
    if min(abs(across - 0.5), abs(down - 0.5)) > _OFF_CENTER and abs(across - down) < _ALIKE:
        middle = across + down
        return (
            f"the principal point {cx:g}, {cy:g} px is that of pictures of about {width * middle:.0f} x "
            f"{height * middle:.0f} px, not of {width} x {height}: the numbers are of another image size. Calibrate at "
            "the size that is used, or multiply fx, fy, cx and cy by the ratio of the sizes"
        )
    return ""
