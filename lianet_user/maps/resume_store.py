"""What an unfinished run keeps: computed tiles in a hidden folder beside the map, from which it can go on after any kill.

A tile is a file of its own, compressed and with checksums, written under another name and renamed: it is there whole
or not at all. A fingerprint says which run the folder belongs to.
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
"""Of a run, name by name: everything that its tiles depend on. JSON can hold it."""


def kept_path(target: Path) -> Path:
    """Where a run towards `target`, a map or a folder of maps, keeps what it has computed."""
    return target / ".unfinished" if target.is_dir() else target.with_name(f".{target.name}.unfinished")


class Kept:
    """The folder of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def finished(self) -> Path:
        """A folder for files that are being made of the tiles."""
        return self.folder / FINISHED

    def save(self, name: str, arrays: Sequence[np.ndarray] | None) -> None:
        """Keep a tile: an array for each map that is made; None for one that holds nothing."""
        temporary = self.folder / f"{name}.part"
        with open(temporary, "wb") as file:
            np.savez_compressed(file, *(arrays or ()))
        temporary.replace(self._path(name))

    def load(self, name: str, number: int) -> np.ndarray | None:
        """The array of map `number` of a tile; None where it holds nothing.

        Raises:
            OutputError: it does not read back as it was written.
        """
        try:
            with np.load(self._path(name), allow_pickle=False) as arrays:
                return arrays[f"arr_{number}"] if arrays.files else None
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise OutputError(
                f"{self._path(name)} does not read back as it was written ({error}): the disk may be failing; run again"
                " with --resume, which computes it anew"
            ) from error

    def has(self, name: str) -> bool:
        """Whether a tile is there, whole."""
        if not self._path(name).is_file():
            return False
        try:
            with zipfile.ZipFile(self._path(name)) as file:
                return file.testzip() is None
        except (OSError, zipfile.BadZipFile, zlib.error):
            return False

    @property
    def worthwhile(self) -> bool:
        """Whether there is anything to go on from."""
        return any(self.folder.glob("*.npz"))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


@contextmanager
def kept_for(target: Path, fingerprint: Fingerprint, resume: bool) -> Iterator[Kept]:
    """The folder of the run towards `target`, which goes when the run ends, well or because it asked for what cannot be.

    It stays when the run is interrupted in any other way: by a signal, by what a listener raises, by a full disk, by a
    fault.

    Args:
        target: a map, or an existing folder of maps.
        fingerprint: of this run.
        resume: go on from what an earlier run left.

    Raises:
        OutputError: another process works on it; there is nothing to go on from, or it belongs to another run; or
            something in the block cannot be written.

    Warns:
        LeftoverWarning: an earlier run left something, and this one does not go on from it.
    """
    kept = Kept(kept_path(target))
    if resume and not (kept.folder / RUN).is_file():
        raise OutputError(f"no unfinished run towards {target} is there to go on from: start without --resume")
    with only_run(target):
        keep = resume  # until this run has begun, what is there belongs to another
        try:
            kept.folder.mkdir(exist_ok=True)
            _begin(kept, target, json.loads(json.dumps(fingerprint)), resume)
            keep = False
            yield kept
        except GDAL_ERRORS as error:
            keep = kept.worthwhile  # hours of work may lie here, and a full disk is soon mended
            # What rasterio says may be no more than that there was an error before.
            reason = error if isinstance(error, OSError) and error.errno else OSError(str(error.__cause__ or error))
            then = "; --resume goes on from what was computed" if keep else ""
            raise OutputError(f"{write_error(target, reason)}{then}") from error
        except InputError:
            raise
        except BaseException:
            keep = kept.worthwhile
            raise
        finally:
            shutil.rmtree(kept.finished if keep else kept.folder, ignore_errors=True)


def _begin(kept: Kept, target: Path, fingerprint: dict[str, Any], resume: bool) -> None:
    """
    Raises:
        OutputError: what is there belongs to another run.
    """
    run = kept.folder / RUN
    if resume:
        try:
            made = json.loads(run.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise OutputError(f"{run} cannot be read ({error}): start again without --resume") from error
        if names := sorted(
            name for name in made.keys() | fingerprint.keys() if made.get(name) != fingerprint.get(name)
        ):
            then = [f"{name} (then {_short(made.get(name))}, now {_short(fingerprint.get(name))})" for name in names]
            raise OutputError(
                f"the unfinished run towards {target} was another; what differs: {listed(then)}: give the same, or start"
                " again without --resume"
            )
        shutil.rmtree(kept.finished, ignore_errors=True)
    else:
        if kept.worthwhile:
            message = f"what an unfinished run towards {target} had computed is discarded: --resume would have gone on from it"
            warnings.warn(message, LeftoverWarning, stacklevel=5)
        shutil.rmtree(kept.folder)
        kept.folder.mkdir()
        temporary = run.with_suffix(".part")
        temporary.write_text(json.dumps(fingerprint, indent=1), encoding="utf-8")
        temporary.replace(run)
    kept.finished.mkdir()


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:20]}..."
