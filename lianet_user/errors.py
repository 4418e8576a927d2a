"""Every way an input can be wrong, in the field's words, and the exit code each one ends with.

A message is one line that says what was found, where, what was expected and what to do about it. The command line
prints it as it stands, so it must make sense to somebody who has never read this code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class LianetError(Exception):
    """Root of every error this package raises on purpose. Its text is always a single line."""

    exit_code = EXIT_FAILURE

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))


class InputError(LianetError):
    """Something the user gave is wrong and only the user can mend it."""

    exit_code = EXIT_BAD_INPUT


class ArtifactError(InputError):
    """A region, head or checkpoint file is not what it should be."""


class RegionMismatchError(InputError):
    """A head was asked to work on a region it was not trained on."""


class LabelError(InputError):
    """Labels that cannot be put on the region's grid as they are."""


class AreaError(InputError):
    """A box or an area of interest that is malformed or outside the region."""


class DateError(InputError):
    """A date the region does not hold."""


class MapError(InputError):
    """A finished map that cannot be used for what was asked."""


class ImageryError(InputError):
    """Imagery that cannot be encoded as it is."""


class CatalogError(InputError):
    """A catalogue of models that cannot be read, or a model that it does not hold."""


class OutputError(InputError):
    """An output that exists already or cannot be written."""


class TrainingError(LianetError):
    """Training could not go on: a loss that is not finite, a checkpoint that does not fit."""


class DownloadError(LianetError):
    """A server that does not give what the catalogue promises; nothing of it is used."""


class LianetWarning(UserWarning):
    """Root of every warning this package gives."""


class PartlyOutsideWarning(LianetWarning):
    """Part of what was asked lies outside the region and is not mapped or not used."""


class LeftoverWarning(LianetWarning):
    """What an interrupted run had left was discarded."""


class LabelWarning(LianetWarning):
    """Labels that were used, but not all of them or not as they stood."""


class AreaWarning(LianetWarning):
    """Areas that are as distorted as the map's grid."""


class EstimateWarning(LianetWarning):
    """What is shown was never observed: it is estimated from other dates."""


class TrainingWarning(LianetWarning):
    """Training went on, but its figures deserve a second look."""


class CatalogWarning(LianetWarning):
    """A catalogue that is not whole, or not as new as it could be."""


def printable(text: str) -> str:
    """A text that may come out of a file that somebody else made, so that it cannot steer the terminal."""
    return "".join(character if character.isprintable() or character == "\n" else "?" for character in text)


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names in a message: a few of them, and how many more there are."""
    rest = len(names) - most
    return (", ".join(names[:most]) or "none") + (f" and {rest} more" if rest > 0 else "")


def did_you_mean(wanted: str, names: Iterable[str]) -> str:
    """The end of a message about a name that does not exist: the one that was likely meant, if one is close."""
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(wanted.casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""
