"""`report.html`: a training on one page, in one file that needs neither network nor scripts.

All texts from files (names of classes, titles, attribution, paths) are escaped by the template; control characters and those
that change the reading direction are replaced.
"""

from __future__ import annotations

import base64
import datetime as dt
import io
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imsave

from lianet_user.files.artifact import replacing, software_versions
from lianet_user.files.header import HeadHeader, Scores
from lianet_user.finetuning.validation import verdict
from lianet_user.geo.grid import LONLAT, Window, bounds_of, crs_name, window_geobox
from lianet_user.geo.ground_area import pixel_metres
from lianet_user.head import Head
from lianet_user.labels import Labels
from lianet_user.labels.split import Split
from lianet_user.maps import picture
from lianet_user.maps.picture import draw_image, shortened
from lianet_user.report import charts, score_text
from lianet_user.report.figures import draw_split, outlined
from lianet_user.report.mapped_view import (
    Image,
    MappedView,
    class_pixels,
    colored,
    doubtful_places,
    labelled,
    map_view,
    number_steps,
    over,
)

if TYPE_CHECKING:
    from lianet_user.finetuning.trainer import History

PANEL = 6.5
"""Longer side of a map in inches."""


@dataclass(frozen=True)
class Picture:
    """An image of the page: a data URI, and its content in words."""

    uri: str
    alt: str


@dataclass(frozen=True)
class Thumbnails:
    """A place of high uncertainty, with its remembered image, labels and prediction."""

    where: str
    doubt: str
    pictures: Sequence[Picture]


def write_report(
    head: Head,
    labels: Labels,
    path: Path,
    split: Split | None,
    history: Sequence[History] = (),
    *,
    head_path: Path | None = None,
    mapped: MappedView | None = None,
) -> None:
    """Write an HTML file about a head: its scores and their limits, its map, and where it is least certain.

    Args:
        head: just trained, or opened.
        labels: on the grid of the head's maps; their classes are the head's.
        path: of the HTML file; an earlier one is replaced.
        split: that the head was trained and validated with; None if unknown.
        history: of each member's training; empty if unknown.
        head_path: of the head file, for the command that maps with it; None takes the one it was opened from.
        mapped: :func:`lianet_user.report.map_view` of head and labels, if it has been computed already.

    Raises:
        OutputError: the file cannot be written.
    """
    mapped = mapped or map_view(head, labels)
    html = (
        _environment()
        .get_template("report.html.jinja")
        .render(_content(head, labels, split, history, head_path or head.path, mapped))
    )
    with replacing(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("lianet_user.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _printable(value: Any) -> Any:
    """Clean a text before the template prints it. Texts that the template has escaped are a subclass of str and stay."""
    return score_text.printable(value) if type(value) is str else value


def _content(
    head: Head,
    labels: Labels,
    split: Split | None,
    history: Sequence[History],
    head_path: Path | None,
    mapped: MappedView,
) -> dict[str, Any]:
    header, region = head.header, head.region.header
    unit = header.numbers.unit if header.numbers else ""
    pixel = pixel_metres(head.region.geobox)[0]
    scores = header.scores
    view, command = mapped.view, _command(header, head_path)
    box = ",".join(f"{degrees:.5f}" for degrees in bounds_of(window_geobox(head.region.geobox, view.window), LONLAT))
    return {
        "title": shortened(region.title, 120),
        "trained": _trained(head, pixel),
        "created": _moment(header.provenance.created),
        "headline": score_text.headline(scores, unit),
        "verdict": verdict(header, "the maps below"),
        "where": score_text.judged_where(header),
        "caveats": score_text.caveats(header, split, pixel) if scores else (),
        "test": score_text.headline(header.test_scores, unit),
        "maps": _maps(head, split, mapped),
        "outlined": outlined(split),
        "date": view.date,
        "part": not view.whole,
        "key": list(zip(labels.classes, class_pixels(labels).tolist(), strict=True)),
        "steps": [(score_text.amount(each, unit), color) for each, color in number_steps(header.numbers)]
        if header.numbers
        else (),
        "table": score_text.scores_table(scores, header) if scores else None,
        "test_table": score_text.scores_table(header.test_scores, header) if header.test_scores else None,
        "dates": score_text.dates_table(header),
        "curves": _curves(history, header),
        "confusion": _confusion(scores),
        "test_confusion": _confusion(header.test_scores),
        "scatter": _scatter(mapped, split, header),
        "places": _places(head, mapped),
        "numbers": header.numbers is not None,
        "label_report": labels.report.lines(),
        "settings": _settings(header),
        "command": command,
        "box_command": f"{command} --bbox {box}",
        "versions": header.provenance.software,
        "written_by": software_versions(),
        "origins": [
            ("Region", region.title),
            ("Licence of the region", region.licence),
            ("Attribution of the region", region.attribution),
            ("Attribution of the labels", labels.attribution or "the label file states none"),
            ("Attribution of maps", header.attribution),
            ("Region file", f"{header.region.name}, sha256 {header.region.sha256}"),
        ],
    }


def _trained(head: Head, pixel: float) -> list[tuple[str, str]]:
    header, region = head.header, head.region.header
    height, width = head.region.shape
    crs = head.region.geobox.crs
    assert crs is not None
    config, dates = header.head, header.dates
    what = {
        "segmentation": f"a map of {len(header.classes)} classes",
        "regression": "a map of numbers",
        "coverage": "a map of the share of each pixel that is covered",
    }[header.task]
    seconds = header.provenance.seconds
    return [
        (
            "Made for",
            what + (f", {config.scale} x {config.scale} answers a pixel of the region" if config.scale > 1 else ""),
        ),
        ("Labels", header.provenance.source),
        (
            "Dates of the labels",
            ", ".join(map(str, dates[:6])) + (f" … {dates[-1]} ({len(dates)})" if len(dates) > 6 else ""),
        ),
        ("Region", f"{region.name}, {height:,} x {width:,} px of {pixel:.3g} m, {crs_name(crs)}"),
        (
            "Head",
            f"{_answering(head)}, reading {', '.join(config.inputs)}",
        ),
        ("Trained", _moment(header.provenance.created) + (f", in {seconds:,.0f} s" if seconds is not None else "")),
    ]


def _answering(head: Head) -> str:
    """What answers: layers, pixel models, or both together."""
    config, parts = head.header.head, []
    if config.members:
        members = f"{config.members} heads that answer together" if config.members > 1 else "one head"
        parameters = sum(tensor.numel() for tensor in head.layers.parameters())
        parts.append(f"{members}, {len(config.widths) + 1} convolutions each, {parameters:,} parameters in all")
    if (models := config.pixel_models) is not None:
        share = f" have {config.pixel_share:.0%} of the answer" if config.members else " answer alone"
        count = len(models.sets) * (models.linear + 1)
        parts.append(
            f"{count} models of single pixels{share}: linear ones, and kernels of {models.landmarks} landmarks, on"
            f" {' and '.join(map(str, models.sets))} channels"
        )
    return "; ".join(parts)


def _moment(moment: dt.datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} {moment.tzname() or ''}".rstrip()


def _settings(header: HeadHeader) -> list[tuple[str, str]]:
    return [
        (
            name.replace("_", " "),
            score_text.NOTHING if value is None else f"{value:g}" if isinstance(value, float) else str(value),
        )
        for name, value in header.provenance.settings.items()
    ]


def _command(header: HeadHeader, head_path: Path | None) -> str:
    head = shlex.quote(str(head_path)) if head_path else "HEAD"
    date = f" --date {header.dates[-1]}" if len(header.dates) > 1 else ""
    return f"lianet-user predict {head}{date} -o map.tif"


def _maps(head: Head, split: Split | None, mapped: MappedView) -> dict[str, Picture]:
    view, classes, numbers = mapped.view, head.header.classes, head.header.numbers
    labelled_image = over(view.fine(mapped.image), view.labels, classes, numbers)
    predicted = colored(mapped.values, classes, numbers)
    return {
        "labels": _map(head, labelled_image, view.window, "Labels over the remembered image", split, "webp"),
        "prediction": _map(head, predicted, view.window, "Prediction"),
        "image": _map(head, mapped.image, view.window, "Remembered image", form="webp"),
    }


def _map(head: Head, image: Image, window: Window, alt: str, split: Split | None = None, form: str = "png") -> Picture:
    width, height = picture.panel_size(head.region.geobox, window, PANEL, PANEL)
    figure = Figure((width, height), dpi=picture.DPI)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_image(axes, image, window, head.region.geobox)
    if split is not None:
        draw_split(axes, split, window)
    return Picture(_encoded(figure, form), alt)


def _curves(history: Sequence[History], header: HeadHeader) -> Picture | None:
    if not history:
        return None
    unit = f" ({header.numbers.unit})" if header.numbers and header.numbers.unit else ""
    name = f"validation MAE{unit}" if header.numbers else "validation macro F1"
    return Picture(_encoded(charts.curves(history, name)), f"Loss by step, and {name} at every look")


def _confusion(scores: object) -> Picture | None:
    if not isinstance(scores, Scores) or not scores.pixels:
        return None
    figure = charts.confusion_matrix(scores.confusion, [each.name for each in scores.classes])
    return Picture(_encoded(figure), "Confusion matrix: rows are reference, columns predicted")


def _scatter(mapped: MappedView, split: Split | None, header: HeadHeader) -> Picture | None:
    """The chart of numbers on validation blocks in the view; None for classes, and without labels there."""
    if header.numbers is None or split is None:
        return None
    view = mapped.view
    judged = labelled(view.labels) & view.fine(split.validated(view.window))
    if not judged.any():
        return None
    figure = charts.predicted_against_reference(view.labels[judged], mapped.values[judged], header.numbers.unit)
    return Picture(_encoded(figure), "Predicted against reference numbers, with the line on which they agree")


def _places(head: Head, mapped: MappedView) -> list[Thumbnails]:
    view, classes, numbers = mapped.view, head.header.classes, head.header.numbers
    thumbnails = []
    for place in doubtful_places(mapped, head.region.geobox):
        inside = place.window.within(view.window)
        fine = inside.scaled(view.scale).slices
        image = mapped.image[inside.slices]
        drawn = (
            ("Remembered image", image),
            ("Labels", over(view.fine(image), view.labels[fine], classes, numbers)),
            ("Prediction", colored(mapped.values[fine], classes, numbers)),
        )
        doubt = (
            f"off by {score_text.amount(place.doubt, numbers.unit)}" if numbers else f"uncertainty {place.doubt:.2f}"
        )
        where = score_text.degrees(place.longitude, place.latitude)
        thumbnails.append(Thumbnails(where, doubt, [Picture(_encoded_image(each), alt) for alt, each in drawn]))
    return thumbnails


def _encoded(figure: Figure, form: str = "png") -> str:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # As in maps/picture.py: characters that matplotlib's font lacks are drawn as boxes; the text of the page has them.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format=form, bbox_inches="tight", pad_inches=0.03)
    return _data_uri(buffer, form)


def _encoded_image(image: Image) -> str:
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(image), format="png")
    return _data_uri(buffer, "png")


def _data_uri(buffer: io.BytesIO, form: str) -> str:
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
