"""`lianet-user reconstruct`: region in, the imagery that it remembers out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from lianet_user.cli.console import (
    advise_resuming,
    choose_device,
    map_document,
    mapping,
    print_next,
    quoted,
    region_file,
    wrote,
)
from lianet_user.cli.options import (
    HOW,
    WHAT,
    AreaOptions,
    AsJson,
    Device,
    Quiet,
    RegionName,
    WritingOptions,
    grouped,
    maps_an_area,
    writes_maps,
)
from lianet_user.errors import InputError

if TYPE_CHECKING:
    from lianet_user.maps import MapResult

IMAGE, IMAGES = Path("image.tif"), Path("images")


@maps_an_area
@writes_maps
def reconstruct(
    *,
    region: RegionName,
    date: Annotated[
        list[str] | None,
        grouped(
            WHAT,
            "Acquisition, or a date between two of them where the region's time is continuous; again for more, A..B for all"
            " acquisitions from A to B, or all.",
            metavar="YYYY-MM-DD",
        ),
    ] = None,
    extrapolate: Annotated[
        bool, grouped(WHAT, "Estimate dates before the first and after the last acquisition too.", "--extrapolate")
    ] = False,
    bands: Annotated[
        str | None, grouped(WHAT, "Bands to write. Default: all, unless --rgb or --index is given.", metavar="B04,B08")
    ] = None,
    rgb: Annotated[bool, grouped(WHAT, "Write an image in true colours, 8 bits each.", "--rgb")] = False,
    stretch: Annotated[
        str | None,
        grouped(
            WHAT,
            "Reflectance that --rgb shows as black and as full. Default: the 2nd and 98th percentile of each colour.",
            metavar="LOW,HIGH",
        ),
    ] = None,
    index: Annotated[
        list[str] | None,
        grouped(
            WHAT,
            "Spectral index to write: ndvi, ndwi, nbr, ... of the Awesome Spectral Indices; again for more; constants as in"
            " savi:L=0.5.",
            metavar="NAME",
        ),
    ] = None,
    float32: Annotated[
        bool, grouped(WHAT, "Write reflectance as float32. Default: uint16 in steps of 0.0001.", "--float32")
    ] = False,
    output: Annotated[
        Path | None,
        grouped(
            HOW,
            "Image to write, a .png for a picture alone, or the folder of several. Default: image.tif, images.",
            "--output",
            "-o",
            metavar="IMAGE",
        ),
    ] = None,
    area_options: AreaOptions,
    writing_options: WritingOptions,
    device: Device = "auto",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the imagery that a region remembers: bands, true colours, spectral indices.

    Example: lianet-user reconstruct models/bouconne.safetensors --date 2018-07-08 --index ndvi -o ndvi.tif
    """
    from lianet_user.files.artifact import open_region_file, refuse_existing

    span = _span(stretch)
    if span is not None and not rgb:
        raise InputError(f"--stretch {stretch} has no effect without --rgb: give both or neither")
    names = [name.strip() for name in bands.split(",")] if bands is not None else []
    kinds = (bool(names) or not (rgb or index)) + rgb + len(set(index or []))
    one_date = not date or (len(date) == 1 and date[0] != "all" and ".." not in date[0])
    target = output or (IMAGE if kinds == 1 and one_date else IMAGES)

    def refuse_output() -> None:
        if target == IMAGE or (kinds == 1 and one_date):
            refuse_existing(target, writing_options.overwrite)

    path = region_file(region, quiet, refuse_output)
    open_region_file(path)  # a wrong file is refused before torch is imported

    from lianet_user.maps.reconstruct import reconstruct as write_images
    from lianet_user.region import Region

    with mapping(quiet) as listener, advise_resuming(target, "reconstruct"):
        results = write_images(
            Region.open(path, choose_device(device)),
            target,
            area=area_options.area(),
            dates=date or (),
            bands=names,
            rgb=rgb,
            indices=index or (),
            extrapolate=extrapolate,
            stretch=span,
            float32=float32,
            listener=listener,
            **writing_options.arguments,
        )
    if as_json:
        print(json.dumps(_document(results), indent=2))
    elif not quiet:
        _print(results)
        print_next(
            f"open {results[0].path if len(results) == 1 else target} in QGIS, and draw labels over it",
            f"lianet-user check {quoted(region)} LABELS",
        )


def _span(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        raise InputError(
            f"--stretch {text!r}: expected LOW,HIGH in reflectance, for instance --stretch 0,0.3"
        ) from None
    return low, high


def _print(results: Sequence[MapResult]) -> None:
    for result in results:
        size = f"{result.geobox.width} x {result.geobox.height} px"
        when = f"{result.date}, estimated" if result.estimated else f"{result.date}"
        wrote(result.path, f" ({result.title}; {size}, {when}): {result.summary.line()}")
    if results[0].path != results[0].quicklook:
        beside = f"{results[0].quicklook}" if len(results) == 1 else "a .png beside each"
        wrote(beside, f" to look at; {results[0].seconds:.0f} s")


def _document(results: Sequence[MapResult]) -> dict[str, Any]:
    return {
        "images": [
            map_document("image", result, date=str(result.date), estimated=result.estimated) | result.summary.as_dict()
            for result in results
        ],
        "seconds": round(results[0].seconds, 1),
    }
