"""Where to label next: places where a head is uncertain, apart from each other and not all of one class.

A place is a square of a few pixels, and its uncertainty the median over them: the few mixed pixels along a border between two
classes do not make a place uncertain. The region is processed tile by tile; of each block only the most uncertain place of each
class is a candidate, so that memory depends on the number of places, not on the region.

That labels there help more than elsewhere is plausible but not shown: `benchmarks/suggest.py` finds no difference.
"""

from __future__ import annotations

import datetime as dt
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import geopandas
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize

from lianet_user.errors import AreaError, InputError, LabelWarning
from lianet_user.files.header import RegionHeader
from lianet_user.geo.grid import TILE, Bounds, Window
from lianet_user.geo.transformation import transformation
from lianet_user.head import Head
from lianet_user.labels.cover import to_pixel_coordinates
from lianet_user.labels.features import features_in_region
from lianet_user.labels.formats import is_raster
from lianet_user.labels.label_options import WHOLE_REGION, LabelOptions
from lianet_user.labels.raster import open_raster, raster_numbers
from lianet_user.labels.split import BoolArray
from lianet_user.labels.vector import read_layer
from lianet_user.maps.geopackage import categories_qml, check_geopackage, write_geopackage

Listener = Callable[[int, int], None]
Floats = NDArray[np.float64]
Indices = NDArray[np.intp]

SIZE = 5
"""Pixels along the side of a place: large enough for a person to recognise as one thing."""
LAYER = "suggest"
"""Name of the layer in the GeoPackage."""

ROW, COL, DOUBT, PREDICTED, SECOND = range(5)
"""Columns of an array of candidates: the first pixel in the region; the uncertainty; the index of the class, or the number; the
index of the second class."""


@dataclass(frozen=True)
class Suggestion:
    """A place to label."""

    window: Window
    """Pixels of the region."""
    uncertainty: float
    """The median over its pixels. Of classes, 1 less the most probable one's lead over the second: 0 to 1. Of numbers, the
    standard deviation of the members' predictions, in the unit of the labels."""
    predicted: str | float
    """The most probable class of the place, or its mean number."""
    second: str
    """The second most probable class; empty for numbers."""


@dataclass(frozen=True)
class Suggestions:
    """Places to label next, in order of importance."""

    places: tuple[Suggestion, ...]
    date: dt.date
    """Date of the acquisition that the head was applied to."""
    window: Window
    """Pixels of the region that were searched."""
    apart: float
    """The least distance in pixels of the region between the centres of two places."""


def suggest(
    head: Head,
    n: int = 20,
    *,
    bbox: Bounds | None = None,
    bbox_crs: str = "EPSG:4326",
    date: dt.date | None = None,
    size: int = SIZE,
    spacing: float | None = None,
    away: BoolArray | None = None,
    before_computing: Callable[[], None] | None = None,
    listener: Listener | None = None,
    tile: int = TILE,
) -> Suggestions:
    """Find places where a head is uncertain, for a person to label.

    Places are chosen one after the other: always the most uncertain one that lies far enough from those before it, where
    the uncertainty of a class is divided by one more than the number of places that it has already. When all remaining
    candidates lie too near, the distance is halved.

    Args:
        head: opened or just trained.
        n: number of places.
        bbox: the box to search: west, south, east, north in `bbox_crs`; None searches the whole region.
        bbox_crs: anything that names a CRS.
        date: of an acquisition; None takes the one the head was trained on, or the only one of the region.
        size: pixels of the region along the side of a place.
        spacing: pixels of the region between the centres of two places; None takes half the spacing of a regular grid of
            `n` places.
        away: bool (height, width) of the region: ground that no place may touch, as from :func:`labelled_ground`.
        before_computing: called when all arguments have been examined; what it raises ends the call.
        listener: called with the pixels done and in total after every tile.
        tile: pixels along the side of a tile, which is computed at once.

    Raises:
        AreaError: the box lies outside the region, or has no room for a place.
        DateError: the region does not hold `date`, or none was given and there are several.
        InputError: a number is out of range, or the head maps numbers and answers with one model only.
        RegionMismatchError: the region was updated since the head was trained.

    Warns:
        LabelWarning: there are fewer places than asked for.
        PartlyOutsideWarning: part of the box lies outside the region.
    """
    head.check_region()
    if n < 1 or size < 1 or (spacing is not None and not spacing >= 0):
        raise InputError(f"`n` {n}, `size` {size}, `spacing` {spacing}: expected numbers above 0")
    config = head.header.head
    if not head.header.classes and config.members + (config.closed_form is not None) < 2:
        raise InputError(
            f"{head.path or 'the head'} maps numbers and answers with one model, but uncertainty is how far several differ:"
            " train a head of layers and a closed form, or of more members, for instance `lianet-user finetune --members 3`"
        )
    acquisition = head.acquisition_date(date)
    window, _ = head.region.window_of(bbox, bbox_crs)
    if before_computing is not None:
        before_computing()
    spacing = 0.5 * math.sqrt(window.pixels / n) if spacing is None else spacing
    block = max(size, int(spacing / 2) // size * size)
    best: dict[tuple[int, ...], Floats] = {}
    done = 0
    for part in window.tiles(max(size, tile // head.scale // size * size)):
        candidates = _candidates(head, part, acquisition, size, away)
        _keep_best(best, candidates, block, by_class=bool(head.header.classes))
        done += part.pixels
        if listener:
            listener(done, window.pixels)
    if not best:
        raise AreaError(
            f"there is no room for a place of {size} x {size} px that bears no label: choose a larger box or a smaller `size`"
        )
    every = np.array(list(best.values()))
    groups = _groups(every, by_class=bool(head.header.classes))
    chosen, apart = chosen_places(every[:, [ROW, COL]], every[:, DOUBT], groups, n, spacing, size)
    if len(chosen) < n:
        warnings.warn(LabelWarning(f"there is room for {len(chosen)} places only, of {n} asked for"), stacklevel=2)
    return Suggestions(tuple(_suggestions(head, every[chosen], size)), acquisition, window, apart)


def chosen_places(
    middles: Floats, uncertainty: Floats, groups: Indices, n: int, spacing: float, least: float
) -> tuple[Indices, float]:
    """Choose places among candidates by the rule of :func:`suggest`.

    Args:
        middles: (candidates, 2) of their centres.
        uncertainty: (candidates,) of each.
        groups: (candidates,) the predicted class of each.
        n: number of places to choose.
        spacing: the distance to begin with.
        least: the distance below which it is not halved.

    Returns:
        The chosen candidates, in order, at most `n`; and the least distance between them.
    """
    distance = np.full(len(middles), np.inf)
    places = np.zeros(groups.max(initial=0) + 1, np.intp)
    chosen: list[int] = []
    while len(chosen) < min(n, len(middles)):
        free = distance >= max(spacing, least)
        free[chosen] = False
        if not free.any():
            if spacing <= least:
                break
            spacing /= 2
            continue
        merit = np.where(free, uncertainty / (1 + places[groups]), -np.inf)
        taken = int(merit.argmax())
        chosen.append(taken)
        places[groups[taken]] += 1
        distance = np.minimum(distance, np.hypot(*(middles - middles[taken]).T))
    return np.array(chosen, np.intp), max(spacing, least)


def labelled_ground(
    path: str | os.PathLike[str],
    region: RegionHeader,
    *,
    layer: str | None = None,
    labels_crs: str | None = None,
    encoding: str | None = None,
    band: int | None = None,
) -> BoolArray:
    """Mark the pixels that a label file covers, whatever its labels are: bool (height, width) of the region.

    Args:
        path: vectors or a raster, as for :func:`lianet_user.labels.read_labels`.
        region: the region's header.
        layer: of a file that has several.
        labels_crs: CRS of a file that states none.
        encoding: of the text in a shapefile or a table.
        band: of a raster that has several, from 1.

    Raises:
        LabelError: the file cannot be read, or lies outside the region.
    """
    path, geobox = Path(path), region.grid.geobox
    options = LabelOptions(layer=layer, labels_crs=labels_crs, encoding=encoding, band=band)
    mask: BoolArray
    if is_raster(path):
        values = raster_numbers(open_raster(path, options), geobox, options.min_coverage, options.rule).values
        mask = np.isfinite(values)
        return mask
    read = read_layer(path, replace(options, task="coverage", labelled_area=WHOLE_REGION))
    count = len(read.geometries)
    everyone = np.ones(count, bool)
    features = features_in_region(
        read,
        labelled=everyone,
        excluded=~everyone,
        dated=everyone,
        twins=pd.Series("", index=range(count)),
        geobox=geobox,
        transformation=transformation(read.crs, geobox),
        buffer=0.0,
        only_polygons=False,
    )
    shapes = to_pixel_coordinates(features.geometries, geobox)
    mask = rasterize(shapes, out_shape=tuple(geobox.shape), all_touched=True, dtype="uint8") > 0
    return mask


def write_suggestions(
    suggestions: Suggestions, head: Head, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write places to a GeoPackage, to be filled in with QGIS and given to `finetune`.

    Its fields are ``place`` (from 1), ``class`` (empty, or ``value`` for numbers; QGIS offers the head's classes),
    ``predicted``, ``second``, ``uncertainty`` and ``date``. Empty fields are not labels: `finetune` counts and skips them.

    Raises:
        OutputError: the file exists or cannot be written.
    """
    path = Path(path)
    check_geopackage(path, overwrite)
    geobox, classes = head.region.geobox, head.header.classes
    places = suggestions.places
    fields: dict[str, object] = {"place": np.arange(1, len(places) + 1)}
    if classes:
        fields["class"] = pd.Series([None] * len(places), dtype=object)
        fields["predicted"] = [place.predicted for place in places]
        fields["second"] = [place.second for place in places]
    else:
        fields["value"] = np.full(len(places), np.nan)
        fields["predicted"] = [float(place.predicted) for place in places]
    fields["uncertainty"] = [place.uncertainty for place in places]
    fields["date"] = suggestions.date.isoformat()
    squares = []
    for place in places:
        window = place.window
        corners = [
            (window.col, window.row),
            (window.col_end, window.row),
            (window.col_end, window.row_end),
            (window.col, window.row_end),
        ]
        squares.append(shapely.Polygon([geobox.affine @ corner for corner in corners]))
    assert geobox.crs is not None
    frame = geopandas.GeoDataFrame(fields, geometry=squares, crs=geobox.crs.proj)
    style = (
        categories_qml("class", classes, outlined=True, choices=[entry.name for entry in classes]) if classes else ""
    )
    metadata = {"HEAD_SHA256": head.sha256} if head.sha256 else {}
    write_geopackage(path, LAYER, [frame], geometry_type="Polygon", style=style, metadata=metadata)


def _candidates(head: Head, tile: Window, date: dt.date, size: int, away: BoolArray | None) -> Floats:
    """The candidates of a tile (candidates, columns): whole places only, without those that touch `away`."""
    rows, cols = tile.height // size, tile.width // size
    inner = Window(tile.row, tile.col, rows * size, cols * size)
    side = size * head.scale
    if not inner.pixels:
        return np.zeros((0, 5))

    def in_cells(values: np.ndarray) -> np.ndarray:
        """(..., h, w) -> (..., rows, columns, pixels of a place)."""
        cut = values.reshape(*values.shape[:-2], rows, side, cols, side)
        return np.moveaxis(cut, -3, -2).reshape(*values.shape[:-2], rows, cols, side * side)

    if head.header.classes:
        probable = head.answers(inner, date).exp().cpu().numpy()
        first, second = -np.partition(-probable, 1, axis=0)[:2]
        doubt = np.median(in_cells(1 - (first - second)), axis=-1)
        order = np.argsort(-in_cells(probable).mean(-1), axis=0)
        predicted, runner_up = order[0], order[1]
    else:
        answers = head.members_answers(inner, date)[:, 0].cpu().numpy()
        doubt = np.median(in_cells(answers.std(0)), axis=-1)
        predicted = in_cells(answers.mean(0)).mean(-1)
        runner_up = np.zeros((rows, cols), np.intp)
    row, col = np.indices((rows, cols))
    every = np.stack(
        [inner.row + row * size, inner.col + col * size, doubt, predicted, runner_up], -1, dtype=np.float64
    )
    if away is None:
        return every.reshape(-1, 5)
    return every[~away[inner.slices].reshape(rows, size, cols, size).any((1, 3))]


def _groups(candidates: Floats, *, by_class: bool) -> Indices:
    """The predicted class of each candidate; of numbers all are one group."""
    return candidates[:, PREDICTED].astype(np.intp) if by_class else np.zeros(len(candidates), np.intp)


def _keep_best(best: dict[tuple[int, ...], Floats], candidates: Floats, block: int, *, by_class: bool) -> None:
    """Keep the most uncertain candidate of each block and class in `best`."""
    places = (candidates[:, [ROW, COL]] // block).astype(np.intp)
    keys = np.column_stack([places, _groups(candidates, by_class=by_class)])
    order = np.argsort(-candidates[:, DOUBT], kind="stable")
    _, first = np.unique(keys[order], axis=0, return_index=True)
    for index in order[first]:
        key = tuple(keys[index].tolist())
        if key not in best or candidates[index, DOUBT] > best[key][DOUBT]:
            best[key] = candidates[index]


def _suggestions(head: Head, chosen: Floats, size: int) -> Sequence[Suggestion]:
    classes = head.header.classes
    return [
        Suggestion(
            window=Window(int(row), int(col), size, size),
            uncertainty=doubt,
            predicted=classes[int(predicted)].name if classes else predicted,
            second=classes[int(second)].name if classes else "",
        )
        for row, col, doubt, predicted, second in chosen.tolist()
    ]
