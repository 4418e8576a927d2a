"""Tiles of an unfinished run, in a hidden folder beside the map: with them a killed run can be resumed.

Each tile is a compressed file with checksums, written under another name and renamed, so that it is complete or missing. A
fingerprint tells which run the folder belongs to.
"""

from __future__ import annotations

import json
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from lianet_user.errors import InputError, LeftoverWarning, OutputError, listed, write_error
from lianet_user.files.lock import only_run
from lianet_user.maps.geotiff import GDAL_ERRORS

RUN, FINISHED = "run.json", "finished"

Fingerprint = Mapping[str, Any]
"""Everything that the tiles of a run depend on, by name, serialisable as JSON."""


def store_path(target: Path) -> Path:
    """The folder where a run stores its tiles; `target` is a map or a folder of maps."""
    return target / ".unfinished" if target.is_dir() else target.with_name(f".{target.name}.unfinished")


class ResumeStore:
    """The folder of a run, and the tiles in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def finished(self) -> Path:
        """A folder for the files that are made from the tiles."""
        return self.folder / FINISHED

    def save(self, name: str, arrays: Sequence[np.ndarray] | None) -> None:
        """Store a tile: an array for each map; None where all of them are nodata."""
        temporary = self.folder / f"{name}.part"
        with open(temporary, "wb") as file:
            np.savez_compressed(file, *(arrays or ()))
        temporary.replace(self._path(name))

    def load(self, name: str, number: int) -> np.ndarray | None:
        """Read the array of map `number` of a tile; None where it is nodata.

        Raises:
            OutputError: the file is damaged.
        """
        try:
            with np.load(self._path(name), allow_pickle=False) as arrays:
                return arrays[f"arr_{number}"] if arrays.files else None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise OutputError(
                f"{self._path(name)} does not read back as it was written ({error}): the disk may be failing; run again"
                " with `resume`, which computes it anew"
            ) from error

    def has(self, name: str) -> bool:
        """Whether a tile is stored and undamaged."""
        if not self._path(name).is_file():
            return False
        try:
            with zipfile.ZipFile(self._path(name)) as file:
                return file.testzip() is None
        except (OSError, zipfile.BadZipFile, zlib.error):
            return False

    @property
    def worthwhile(self) -> bool:
        """Whether any tile is stored."""
        return any(self.folder.glob("*.npz"))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


@contextmanager
def resume_store(target: Path, fingerprint: Fingerprint, resume: bool) -> Iterator[ResumeStore]:
    """Open the store of the run towards `target`; it is removed when the run succeeds or its input turns out to be wrong.

    It stays when the run is interrupted in any other way: by a signal, an exception of a listener, a full disk or a fault.

    Args:
        target: a map, or an existing folder of maps.
        fingerprint: of this run.
        resume: continue an earlier run.

    Raises:
        OutputError: another process is writing the same target; there is no run to resume, or it was another one; or a file
            cannot be written in the block.

    Warns:
        LeftoverWarning: the tiles of an earlier run are discarded.
    """
    store = ResumeStore(store_path(target))
    if resume and not (store.folder / RUN).is_file():
        raise OutputError(f"there is no unfinished run towards {target} to resume: omit `resume`")
    with only_run(target):
        keep = resume  # until this run has begun, the folder belongs to another
        try:
            store.folder.mkdir(exist_ok=True)
            _begin(store, target, json.loads(json.dumps(fingerprint)), resume)
            keep = False
            yield store
        except GDAL_ERRORS as error:
            keep = store.worthwhile  # hours of work may lie here, and room on a full disk is soon made
            # The message of rasterio may only refer to an earlier error.
            reason = error if isinstance(error, OSError) and error.errno else OSError(str(error.__cause__ or error))
            then = "; `resume` goes on from what was computed" if keep else ""
            raise OutputError(f"{write_error(target, reason)}{then}") from error
        except InputError:
            raise
        except BaseException:
            keep = store.worthwhile
            raise
        finally:
            shutil.rmtree(store.finished if keep else store.folder, ignore_errors=True)


def _begin(store: ResumeStore, target: Path, fingerprint: dict[str, Any], resume: bool) -> None:
    """Prepare the folder of a run, or check that it belongs to this one.

    Raises:
        OutputError: it belongs to another run.
    """
    run = store.folder / RUN
    if resume:
        try:
            made = json.loads(run.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{run} cannot be read ({error}): omit `resume` to start again") from error
        if names := sorted(
            name for name in made.keys() | fingerprint.keys() if made.get(name) != fingerprint.get(name)
        ):
            then = [f"{name} (then {_short(made.get(name))}, now {_short(fingerprint.get(name))})" for name in names]
            raise OutputError(
                f"the unfinished run towards {target} was another; what differs: {listed(then)}: give the same, or omit"
                " `resume` to start again"
            )
        shutil.rmtree(store.finished, ignore_errors=True)
    else:
        if store.worthwhile:
            message = f"what an unfinished run towards {target} had computed is discarded: `resume` would have gone on from it"
            warnings.warn(message, LeftoverWarning, stacklevel=5)
        shutil.rmtree(store.folder)
        store.folder.mkdir()
        temporary = run.with_suffix(".part")
        temporary.write_text(json.dumps(fingerprint, indent=1), encoding="utf-8")
        temporary.replace(run)
    store.finished.mkdir()


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:20]}..."
