"""Draw images/havelland.png, the picture of the project's README: labels, memory and map side by side.

make demo
python tutorials/first_screen.py demo/head.safetensors
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.patches import Rectangle
from pictures import show

from lianet_user.geo.grid import Window
from lianet_user.head import Head
from lianet_user.labels import LabelOptions, read_labels
from lianet_user.maps import picture
from lianet_user.maps.picture import FAINT, GAP, INK, MARGIN, ROW, TEXT, Sheet, class_image, draw_image
from lianet_user.report.mapped_view import remembered_image

HERE = Path(__file__).resolve().parent
WINDOW = Window(0, 400, 768, 768)
"""The Beetzsee and what lies around it: 7.68 x 7.68 km."""
SIDE, TITLE = 3.4, 0.24
"""Inches of a panel's side, and of the title above it."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw labels, memory and map side by side, for the README.")
    parser.add_argument(
        "head", type=Path, nargs="?", default=HERE / "out/head.safetensors", help="trained on these labels"
    )
    head = Head.open(parser.parse_args().head)
    region, (date,) = head.region, head.region.header.dates
    labels = read_labels(HERE / "data/havelland_demo.gpkg", region.header, LabelOptions(field="class"))
    panels = {
        "Your labels": class_image(labels.maps[0].values[WINDOW.slices], labels.classes),
        f"What the region remembers of {date}": remembered_image(region, WINDOW, date),
        "Your map": class_image(head.values(WINDOW), labels.classes),
    }
    width = 2 * MARGIN + len(panels) * SIDE + (len(panels) - 1) * GAP
    lines = picture.small_print(head.header.attribution, width)
    sheet = Sheet(width, 2 * MARGIN + TITLE + SIDE + 0.1 + ROW + picture.small_print_height(lines))
    for number, (title, image) in enumerate(panels.items()):
        left = MARGIN + number * (SIDE + GAP)
        sheet.text(left, MARGIN, title, picture.PANEL_TITLE, bold=True)
        draw_image(sheet.axes(left, MARGIN + TITLE, SIDE, SIDE), image, WINDOW, region.geobox)
    key = sheet.axes(MARGIN, MARGIN + TITLE + SIDE + 0.1, width - 2 * MARGIN, ROW)
    key.set_axis_off()
    key.set(xlim=(0, width - 2 * MARGIN), ylim=(0, ROW))
    for number, entry in enumerate(labels.classes):
        place = 1.25 * number
        key.add_patch(Rectangle((place, 0.04), 0.22, 0.13, facecolor=entry.color, edgecolor=FAINT, linewidth=0.4))
        key.text(place + 0.3, ROW / 2, entry.name, size=TEXT, color=INK, va="center")
    sheet.small_print(lines)
    drawn = HERE / "out" / "havelland.png"
    drawn.parent.mkdir(exist_ok=True)
    picture.save_png(sheet.figure, drawn)
    show(drawn, "havelland.png")


if __name__ == "__main__":
    main()
