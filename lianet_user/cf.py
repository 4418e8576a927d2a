"""What the CF conventions say of categories: attributes that xarray, Panoply and others read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from lianet_user.header import ClassEntry

_NOT_IN_A_WORD = re.compile(r"[^\w.+@-]+")


def class_flags(classes: Sequence[ClassEntry]) -> dict[str, Any]:
    """The attributes of an array whose values are indices of classes.

    `flag_meanings` is one text in which blanks part the meanings (CF 3.5), so a name becomes a word, and of names that
    become the same word each later one ends with its value. `flag_colors` are their colours, likewise.
    """
    words: list[str] = []
    for value, entry in enumerate(classes):
        word = _NOT_IN_A_WORD.sub("_", entry.name).strip("_") or "class"
        words.append(f"{word}_{value}" if word in words else word)
    return {
        "flag_values": np.arange(len(classes), dtype=np.uint8),
        "flag_meanings": " ".join(words),
        "flag_colors": " ".join(entry.color for entry in classes),
    }
