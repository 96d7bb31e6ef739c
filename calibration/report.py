"""Calibration reports: one HTML page that needs nothing but itself, with pictures inside and numbers in tables.

A page is a list of sections; a section is a heading, some text, tables and pictures. What a page says of a calibration
is put together here, so that the commands only choose.
"""

import base64
import html
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from calibration.capture import load_picture
from calibration.drawings import coverage_picture, error_map, overlay, uncertainty_map, worst_views
from calibration.hand_eye import HandEyeResult
from calibration.intrinsics import IntrinsicsResult

__all__ = ["Section", "Table", "hand_eye_sections", "intrinsics_sections", "write_page"]

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#282c34;background:#fafaf8}
body{margin:2rem auto;max-width:60rem;padding:0 1rem}
h1{font-size:1.6rem}h2{font-size:1.2rem;margin-top:2.2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.8rem 0}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #e4e4e0}
th{background:#f0f0ec}td:first-child,th:first-child{text-align:left}.good{color:#1c7a3a}.bad{color:#c0352b}
figure{display:inline-block;margin:.5rem .8rem .5rem 0;vertical-align:top;max-width:100%}
figure img{max-width:100%;border:1px solid #ddd}figcaption{font-size:.85rem;color:#555;max-width:40rem}
pre{background:#f0f0ec;padding:.6rem;overflow-x:auto}
"""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; cells are text already."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Section:
    """One part of a page."""

    title: str
    text: Sequence[str] = ()  # paragraphs
    tables: Sequence[Table] = ()
    pictures: Sequence[tuple[np.ndarray, str]] = field(default=())  # (height, width, 3) RGB, and its caption
    code: str = ""


def write_page(path: Path, title: str, sections: Sequence[Section]) -> None:
    """Writes a page, all at once."""
    body = "\n".join(_section(section) for section in sections)
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>{body}</body></html>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(page)
    os.replace(draft, path)


def intrinsics_sections(result: IntrinsicsResult, folder: Path | None = None) -> list[Section]:
    """What a page says of a lens.

    Args:
        result: The calibration.
        folder: Where the pictures lie, to draw over some of them; no overlays when None.
    """
    lens, std = result.lens, result.std
    (fx, fy), (cx, cy) = lens.focal_px, lens.center_px
    names = ["fx", "fy", "cx", "cy", *(f"distortion {index + 1}" for index in range(len(lens.distortion)))]
    values = [fx, fy, cx, cy, *lens.distortion]
    rows = [
        [name, f"{value:.6g}", f"{sigma:.2g}", f"{100 * abs(sigma / value):.2g} %" if abs(value) > 1e-12 else "-"]
        for name, value, sigma in zip(names, values, std, strict=True)
    ]
    uncertain, median, largest = uncertainty_map(result)
    quality = [
        ["reprojection error, views that were used", f"{result.rms_px:.3f} px"],
        ["reprojection error, views left out (leave-out error)", f"{result.leave_out_px:.3f} px"],
        ["noise of one corner coordinate", f"{result.noise_px:.3f} px"],
        ["views used / not used", f"{len(result.views)} / {len(result.rejected)}"],
        ["corners left out as bad", result.comparison.where],
        ["uncertainty of a ray's pixel, median / largest", f"{median:.2f} / {largest:.2f} px"],
    ]
    advice = result.coverage.advice() + ([result.comparison.note] if result.comparison.note else [])
    sections = [
        Section(
            title=f"Lens ({lens.model}, {lens.width_px} x {lens.height_px} px)",
            text=["To do better: " + "; ".join(advice) + "."] if advice else ["The views cover what they should."],
            tables=[
                Table(head=["quality", ""], rows=quality),
                Table(head=["parameter", "value", "standard deviation", "relative"], rows=rows),
            ],
        ),
        Section(
            title="Coverage and errors",
            pictures=[
                (
                    coverage_picture([view.detection for view in result.views], result.coverage),
                    "where corners were seen",
                ),
                (
                    error_map(result),
                    "error of every corner; red crosses were left out. A pattern means a wrong lens model",
                ),
                (uncertain, "uncertainty over the image, dark is certain; extrapolation shows in the corners"),
            ],
        ),
        _views_section(result),
    ]
    if folder is not None:
        chosen = [view for view in worst_views(result.views, 6) if (folder / view.detection.source).is_file()]
        pictures = [
            (
                overlay(load_picture(folder / view.detection.source), view),
                f"{view.detection.source}: {view.rms_px:.2f} px",
            )
            for view in chosen
        ]
        sections.append(Section(title="The best and the worst views", pictures=pictures))
    return sections


def hand_eye_sections(result: HandEyeResult, rig: np.ndarray | None = None) -> list[Section]:
    """What a page says of a camera's pose.

    Args:
        result: The calibration.
        rig: Drawing of arm, camera and board, as ``calibration.rig_plot.rig_picture`` makes it.
    """
    used = result.inlier
    place = "on the tool" if result.eye_in_hand else "in the base frame"
    x, y, z = result.camera[:3, 3]
    quality = [
        ["camera, position [mm]", f"{1e3 * x:.1f}, {1e3 * y:.1f}, {1e3 * z:.1f}"],
        ["uncertainty, worst direction", f"{result.std_mm:.2f} mm, {result.std_deg:.3f} degrees"],
        [
            "residual, median of views",
            f"{np.median(result.residual_mm[used]):.2f} mm, {np.median(result.residual_deg[used]):.3f} degrees",
        ],
        [
            "residual, largest used view",
            f"{result.residual_mm[used].max():.2f} mm, {result.residual_deg[used].max():.3f} degrees",
        ],
        ["views used / left out", f"{int(used.sum())} / {int((~used).sum())}"],
        ["errors over the stated robot noise", f"{result.noise_factor:.2f}"],
        ["size of the board as the motion measures it", f"{100 * result.scale:.2f} %"],
        ["turns between poses, three axes", ", ".join(f"{turn:.0f} degrees" for turn in result.motion.turns_deg)],
    ]
    rows = [
        [source, f"{mm:.2f}", f"{deg:.3f}", "" if good else "left out"]
        for source, mm, deg, good in zip(result.sources, result.residual_mm, result.residual_deg, used, strict=True)
    ]
    tables = [Table(head=["quality", ""], rows=quality)]
    if result.offsets:
        tables.append(
            Table(
                head=["joint", "zero offset [degree]", "standard deviation"],
                rows=[
                    [joint.name, f"{np.degrees(joint.offset_rad):+.3f}", f"{np.degrees(joint.std_rad):.3f}"]
                    if joint.estimated
                    else [joint.name, "-", "cannot be told from the camera's or the board's pose"]
                    for joint in result.offsets
                ],
            )
        )
    advice = result.motion.advice()
    return [
        Section(
            title=f"Camera {place}",
            text=["To do better: " + "; ".join(advice) + "."] if advice else [],
            tables=tables,
            pictures=[] if rig is None else [(rig, "arm, cameras and board; red: views that were left out")],
        ),
        Section(title="Views", tables=[Table(head=["picture", "error [mm]", "error [degree]", ""], rows=rows)]),
    ]


def _views_section(result: IntrinsicsResult) -> Section:
    return Section(
        title="Views",
        tables=[
            Table(
                head=["picture", "corners", "left out", "rms [px]", "blur [px]"],
                rows=[
                    [
                        view.detection.source,
                        str(len(view.detection)),
                        str(int((~view.inlier).sum())),
                        f"{view.rms_px:.3f}",
                        f"{view.detection.blur_px:.2f}",
                    ]
                    for view in result.views
                ],
            ),
            *(
                [Table(head=["not used", "why"], rows=[list(row) for row in result.rejected])]
                if result.rejected
                else []
            ),
        ],
    )


def _section(section: Section) -> str:
    parts = [f"<h2>{html.escape(section.title)}</h2>"]
    parts += [f"<p>{html.escape(text)}</p>" for text in section.text]
    parts += [_table(table) for table in section.tables]
    parts += [
        f'<figure><img src="{_data(image)}" alt=""><figcaption>{html.escape(caption)}</figcaption></figure>'
        for image, caption in section.pictures
    ]
    if section.code:
        parts.append(f"<pre>{html.escape(section.code)}</pre>")
    return "\n".join(parts)


def _table(table: Table) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.head)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in table.rows)
    return f"<table><tr>{head}</tr>{rows}</table>"


def _data(image: np.ndarray) -> str:
    _, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return "data:image/png;base64," + base64.b64encode(encoded.tobytes()).decode()
