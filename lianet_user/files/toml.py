"""TOML files that people write by hand."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from lianet_user.errors import InputError


def read_toml(path: Path) -> dict[str, Any]:
    """
    Raises:
        InputError: it cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML: {error}") from error
