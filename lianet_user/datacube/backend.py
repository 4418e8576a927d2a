"""The entry point of xarray for ``engine="lianet"``.

xarray imports this module whenever it has to guess how to open a file, so it imports as little as possible.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from xarray.backends import BackendEntrypoint

if TYPE_CHECKING:
    import xarray as xr

SUFFIX = ".safetensors"


class LianetBackend(BackendEntrypoint):
    """Opens region and head files; its parameters are those of :func:`open_datacube`."""

    description = "Region and head files of lianet-user (.safetensors): computed window by window as they are read"
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "drop_variables",
        "region",
        "dates",
        "between",
        "probabilities",
        "device",
    )

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        region: str | os.PathLike[str] | None = None,
        dates: Sequence[dt.date | str] | None = None,
        between: bool = False,
        probabilities: bool = False,
        device: str = "cpu",
    ) -> xr.Dataset:
        """Open a region or head file, see :func:`open_datacube`."""
        from lianet_user.datacube.dataset import lazy_dataset

        dropped = [drop_variables] if isinstance(drop_variables, str) else list(drop_variables or ())
        cube = lazy_dataset(_path_of(filename_or_obj), region, dates, between, probabilities, device)
        return cube.drop_vars(dropped, errors="ignore")

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Whether a file declares itself a region or a head; other safetensors files are left to other backends."""
        if not isinstance(filename_or_obj, str | os.PathLike) or not os.fspath(filename_or_obj).endswith(SUFFIX):
            return False
        from lianet_user.files.artifact import declared_kind

        return declared_kind(Path(filename_or_obj)) is not None


def open_datacube(
    path: str | os.PathLike[str],
    *,
    region: str | os.PathLike[str] | None = None,
    dates: Sequence[dt.date | str] | None = None,
    between: bool = False,
    probabilities: bool = False,
    device: str = "cpu",
    chunks: Mapping[str, int] | int | str | None = None,
) -> xr.Dataset:
    """Open a region or head file as a data cube: `xr.open_dataset(path, engine="lianet", ...)`.

    Only headers are read. The files must not change while the cube is in use.

    Args:
        path: of a region or head file.
        region: path of a head's region; None looks where it was when the head was trained, then beside the head.
        dates: of the cube, as dates or YYYY-MM-DD, in any order; None takes every acquisition of the region.
        between: let the field estimate `dates` between its acquisitions, where its time encoding is continuous; only for
            regions. The coordinate `estimated` then distinguishes them from acquisitions.
        probabilities: add the probabilities of the classes; only for heads that map classes.
        device: to compute on, in every process: cpu or cuda.
        chunks: as in xarray: None computes what is indexed, `{}` makes dask arrays in suitable chunks (one date, all bands,
            512 x 512 px), anything else in those chunks.

    Returns:
        A data set with coordinates time, y, x (centres of pixels), `spatial_ref` (the CRS), and

        - for a region: `reflectance` float32 (time, band, y, x), with names, wavelengths and sampling distances of bands;
        - for a head of classes: `class` uint8 (time, y, x), where 255 is nodata, and with `probabilities`: `probability`
            float32 (time, class_name, y, x);
        - for a head of numbers: `value` or `coverage` float32 (time, y, x), in the unit of the labels.

        Reading pixels raises ArtifactError where a file is damaged or has changed, and RegionMismatchError where the region
        is not the one that the head was trained on.

    Raises:
        ArtifactError: a header cannot be read, or the region was not found.
        DateError: the region does not hold a date and cannot or may not estimate it.
        InputError: an argument does not apply to the file.
        RegionMismatchError: the region has another lineage than the head's.
    """
    import xarray

    return xarray.open_dataset(
        path,
        engine=LianetBackend,
        chunks=chunks,
        region=region,
        dates=dates,
        between=between,
        probabilities=probabilities,
        device=device,
    )


def _path_of(given: Any) -> Path:
    """Convert what xarray was given to a path.

    Raises:
        ArtifactError: it is an open file or bytes.
    """
    from lianet_user.errors import ArtifactError

    if not isinstance(given, str | os.PathLike):
        raise ArtifactError(f"a {type(given).__name__} was given for a region or head file: expected its path")
    return Path(given)
