"""`predict`: the maps of heads, from what a user asks for to what came of it."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from odc.geo.geobox import GeoBox

from lianet_user.field.precision import computed_in
from lianet_user.grid import Window, whole
from lianet_user.head import Head
from lianet_user.maps.answering import whole_pixels
from lianet_user.maps.area import Destination, MapArea, offset_on
from lianet_user.maps.certainty import Uncertainty
from lianet_user.maps.files import MapFiles
from lianet_user.maps.planning import Together, check_answers, ground_of, map_count, map_names, map_pass, planned
from lianet_user.maps.runs import grid_words, ground_words, output_folder
from lianet_user.maps.summary import Summary
from lianet_user.maps.writing import Listener, Pass, write_maps
from lianet_user.region import stored


@dataclass(frozen=True)
class MapResult:
    """A finished map."""

    path: Path
    quicklook: Path
    window: Window | None
    """Pixels of the region that the map covers; None where it lies on another grid."""
    geobox: GeoBox
    """Of the map."""
    date: dt.date
    """Of the acquisition that was mapped; of several regions, the first one's."""
    title: str
    """What it shows, as in "map of 6 classes"."""
    summary: Summary
    """What it holds: the pixels of each class, the statistics of the numbers, or the means of probabilities."""
    outside: float
    """Share of what was asked for that lies outside the region and is not mapped: 0 to 1."""
    seconds: float
    """That all maps of this call took together."""
    estimated: bool = False
    """Whether no image of the date was ever encoded."""


def predict(
    heads: Head | Sequence[Head],
    output: str | os.PathLike[str],
    *,
    area: MapArea | None = None,
    dates: Sequence[str | dt.date] = (),
    probabilities: bool = False,
    uncertainty: Uncertainty | None = None,
    turned: bool = False,
    min_area: float | None = None,
    overwrite: bool = False,
    resume: bool = False,
    listener: Listener | None = None,
    creation_options: Mapping[str, str] | None = None,
) -> tuple[MapResult, ...]:
    """Map an area with heads, to Cloud-Optimized GeoTIFFs.

    Classes are uint8 with colours and nodata 255, numbers float32 with their unit and nodata NaN. Beside ``map.tif`` come
    ``map.tif.aux.xml`` (for GDAL: class names and attribute table, or statistics), ``map.qml`` (style for QGIS) and
    ``map.png`` (the map at a glance). All are made in a hidden folder beside the map and take their places when
    everything is finished and checked; until then earlier maps stay as they are. Memory follows the tile, not the map.

    Heads of one region share one reading of it. Heads of different regions are mosaicked: where several regions could say
    what a pixel is, the first head's does.

    Args:
        heads: opened or just trained: of one region, or each of a region of its own.
        output: ``*.tif`` or ``*.tiff`` of the one map; of several (by head or date) the folder for them, where each is
            called by its head and date.
        area: where to map; by default the whole region on its own grid.
        dates: of acquisitions, see :func:`lianet_user.maps.dates.chosen_dates`; none takes the one that the head was trained
            on, or the only one of the region.
        probabilities: write ``map_probabilities.tif`` too, with a band for each class.
        uncertainty: write ``map_uncertainty.tif`` too: ``entropy`` or ``margin``.
        turned: average the answers over the eight turns and mirrors of what the head reads; takes longer.
        min_area: hectares; smaller patches of a class become the largest of their neighbours.
        overwrite: replace earlier maps and what lies beside them.
        resume: go on from what an interrupted run with the same arguments left.
        listener: told the pixels done and in all, at first and after every tile. What it raises ends the run.
        creation_options: of GDAL's COG driver, see :data:`lianet_user.maps.geotiff.OPTIONS`.

    Returns:
        The maps by date, then head, then kind.

    Raises:
        AreaError: the area lies outside the region, or what was asked for contradicts itself.
        DateError: the region does not hold a date, or none was given and there are several.
        InputError: the heads do not go together, or do not have what was asked for.
        LabelError: the polygons of the area cannot be read.
        OutputError: a map exists, cannot be written, or does not fit on the disk; there is nothing to resume.
        RegionMismatchError: the region was updated since the head was trained.

    Warns:
        PartlyOutsideWarning: part of the area lies outside the region and is not mapped.
        LeftoverWarning: what an interrupted run left is discarded.
    """
    started = time.monotonic()
    asked = (heads,) if isinstance(heads, Head) else tuple(heads)
    together = planned(asked, dates)
    check_answers(asked, probabilities, uncertainty, min_area)
    count = map_count(together)
    target = Path(output)
    names = map_names(asked, target, count)
    area, grounds = area or MapArea(), {}
    passes: list[Pass] = []
    results: list[tuple[Together, Destination, Pass]] = []
    for each in together:
        if each.group not in grounds:
            grounds[each.group] = ground_of(each, area)
        made = map_pass(each, grounds[each.group], names, turned, min_area, probabilities, uncertainty)
        passes.append(made)
        results.append((each, grounds[each.group], made))
    fingerprint = {
        "version": version("lianet-user"),
        "heads": [_digest(head) for head in asked],
        "regions": [head.region.sha256 for head in asked],
        "maps": [[job.path.name, job.smallest] for run in passes for job in run.jobs],
        "dates": [[str(date) for date in each.dates] for each in together],
        "grids": [grid_words(run.geobox, run.tile) for run in passes],
        "grounds": [ground_words(ground) for _, ground, _ in results],
        "uncertainty": uncertainty,
        "turned": turned,
        "precision": [computed_in(head.region.device, head.region.precision) for head in asked],
        "creation options": dict(creation_options or {}),
    }
    with output_folder(target, several=count > 1):
        write_maps(
            passes,
            target,
            fingerprint=fingerprint,
            overwrite=overwrite,
            resume=resume,
            listener=listener,
            creation_options=creation_options,
        )
    seconds = time.monotonic() - started
    return tuple(
        MapResult(
            path=job.path,
            quicklook=MapFiles.of(job.path).png,
            window=_window(each.heads[0], run.geobox),
            geobox=run.geobox,
            date=each.dates[0],
            title=job.product.title,
            summary=job.product.summary,
            outside=ground.outside,
            seconds=seconds,
        )
        for each, ground, run in results
        for job in run.jobs
    )


def _window(head: Head, geobox: GeoBox) -> Window | None:
    offset = offset_on(head.geobox, geobox)
    if offset is None:
        return None
    mapped = whole(geobox).shifted(*offset).intersection(whole(head.geobox))
    return mapped and whole_pixels(mapped, head.scale)


def _digest(head: Head) -> str:
    """Of the file, or of the weights of a head that was not read from one."""
    if head.sha256:
        return head.sha256
    digest = hashlib.sha256(head.header.model_dump_json().encode())
    for name, tensor in sorted(stored(head.layers).items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().numpy().tobytes())
    return digest.hexdigest()
