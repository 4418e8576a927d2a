"""Where the region of a head is."""

from __future__ import annotations

import os
from pathlib import Path

from lianet_user.catalog.cache import cached_file
from lianet_user.errors import ArtifactError
from lianet_user.header import HeadHeader


def region_of_head(header: HeadHeader, head_path: Path, given: str | os.PathLike[str] | None = None) -> Path:
    """The region file of a head: as given, else where it lay at training, else beside the head under the same name, else
    among the models that were fetched.

    Raises:
        ArtifactError: it is in none of these places.
    """
    if given is not None:
        return Path(given)
    recorded = Path(header.region.path)
    candidates = (recorded, head_path.absolute().parent / recorded.name)
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    if fetched := cached_file(header.region.sha256):
        return fetched
    raise ArtifactError(
        f"the region {header.region.name!r} of {head_path} was not found at {' or '.join(map(str, candidates))}, nor among the"
        " models that were fetched: say where it is with --region, or get it with lianet-user models fetch"
    )
