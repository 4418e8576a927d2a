"""What every run that writes maps has: a folder to write to, and words for its fingerprint."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from odc.geo.geobox import GeoBox

from lianet_user.artifact import refuse_existing
from lianet_user.errors import OutputError
from lianet_user.maps.area import Destination
from lianet_user.maps.files import MapFiles


@contextmanager
def output_folder(target: Path, several: bool) -> Iterator[None]:
    """A folder for several maps, made if need be, and gone again if nothing came of it.

    Raises:
        OutputError: it cannot be made.
    """
    made = several and not target.exists()
    if made:
        try:
            target.mkdir()
        except OSError as error:
            raise OutputError(f"cannot make the folder {target}: {error.strerror}: choose another with -o") from error
    try:
        yield
    finally:
        if made:
            with suppress(OSError):  # something is in it
                target.rmdir()


@contextmanager
def only_picture(target: Path, overwrite: bool, resume: bool) -> Iterator[Path]:
    """Where to write the map for `target`: itself; or, of a name that ends in .png, a place from which only the map at a
    glance is kept.

    Raises:
        OutputError: the picture exists or cannot be written, or an interrupted run is to be resumed, of which nothing is kept.
    """
    if target.suffix.lower() != ".png":
        yield target
        return
    if resume:
        raise OutputError(f"{target} is a picture, of which an interrupted run keeps nothing: start without --resume")
    refuse_existing(target, overwrite)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{target.stem}.", dir=target.parent) as folder:
            made = Path(folder) / f"{target.stem}.tif"
            yield made
            MapFiles.of(made).png.replace(target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}: choose another place with -o") from error


def grid_words(geobox: GeoBox, tile: int) -> list[object]:
    return [geobox.crs.to_wkt() if geobox.crs else None, *tuple(geobox.affine)[:6], *geobox.shape, tile]


def ground_words(ground: Destination) -> str | None:
    return None if ground.ground is None else hashlib.sha256(ground.ground.wkb).hexdigest()
