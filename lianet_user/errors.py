"""Every way an input can be wrong, in the field's words, and the exit code each one ends with.

A message is one line that says what was found, where, what was expected and what to do about it. It must make sense to
somebody who has never read this code. An argument is named in backticks, as in Python: ``"`min_area` 0: expected hectares"``.
The command line prints its own option in that place (:func:`lianet_user.cli.as_options`) and the rest as it stands.

    0    it worked
    1    it did not, and the input is not to blame: a training that diverged, too little memory, a fault of this program
    2    the command line, a file or the place for an output is wrong, and only the user can mend it (:class:`InputError`)
    130  Ctrl-C
    143  SIGTERM, where the work could be ended so that it can be taken up again
"""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

LONGEST = 4000
"""Characters of a message at most: a longer one was made to harm."""


class LianetError(Exception):
    """Root of every error this package raises on purpose. Its text is always a single line."""

    exit_code = EXIT_FAILURE

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))


class InputError(LianetError):
    """Something the user gave is wrong, and only the user can correct it."""

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
    """The remains of an interrupted run were discarded."""


class LabelWarning(LianetWarning):
    """Labels that were used, but not all of them or not as they stood."""


class EstimateWarning(LianetWarning):
    """The result was never observed: it is estimated from other dates."""


class TrainingWarning(LianetWarning):
    """Training went on, but its figures deserve a second look."""


class CatalogWarning(LianetWarning):
    """A catalogue that is not whole, or not as new as it could be."""


STEERING = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
"""A set of a regular expression: characters that steer a terminal, turn the reading direction, or are half a character. Tab and
line feed are not among them."""

_STEERING = re.compile(f"[{STEERING}]")


def printable(text: str) -> str:
    """A text, perhaps out of a file of somebody else, with every character replaced that could steer the terminal."""
    return _STEERING.sub("?", text)


def one_line(text: str, most: int = LONGEST) -> str:
    """A text as a message: printable, on one line, of at most so many characters."""
    return brief(printable(" ".join(text.split())), most)


def brief(text: str, most: int = 80) -> str:
    """The beginning of a text that somebody else chose, who may have chosen a megabyte of it."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def write_error(path: str | os.PathLike[str], error: OSError) -> OutputError:
    """The error for an output that the system refused to write, with a way out."""
    return OutputError(
        f"cannot write {os.fspath(path)}: {error.strerror or error}: {_WAYS_OUT.get(error.errno or 0, _WAY_OUT)}"
    )


_WAY_OUT = "choose another place with `output`"
_WAYS_OUT = {
    errno.ENOSPC: "make room on that disk, or choose another with `output`",
    errno.EDQUOT: "make room within your quota, or choose another disk with `output`",
    errno.EFBIG: "this disk or a limit (`ulimit -f`) allows no file so large: choose another disk with `output`",
    errno.EIO: "that disk fails: choose another with `output`",
    errno.EROFS: "that disk can only be read: choose another with `output`",
    errno.EACCES: "you may not write there: choose another place with `output`",
    errno.EPERM: "you may not write there: choose another place with `output`",
}


def listed(names: Sequence[str], most: int = 20) -> str:
    """Names in a message: a few of them, and how many more there are."""
    rest = len(names) - most
    return (", ".join(names[:most]) or "none") + (f" and {rest} more" if rest > 0 else "")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The end of a message about a name that does not exist: the one that was likely meant, if one is close."""
    folded = {each.casefold(): each for each in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=1)
    return f"; did you mean {folded[close[0]]!r}?" if close else ""


LOG_FOLDER_VARIABLE = "LIANET_LOG_DIR"
"""Environment variable: a folder for log files other than the platform's own."""


def log_folder() -> Path:
    """The folder for log files of unforeseen errors: the platform's, or the one that LIANET_LOG_DIR names."""
    import platformdirs

    said = os.environ.get(LOG_FOLDER_VARIABLE)
    return Path(said) if said else platformdirs.user_log_path("lianet-user")
