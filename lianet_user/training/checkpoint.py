"""Checkpoints of a fine-tuning: one safetensors file, written whole or not at all, that says what run it belongs to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from lianet_user.artifact import replacing
from lianet_user.errors import ArtifactError, listed
from lianet_user.labels import Labels, Split

MOST_ROUNDS = 64
"""Of a cross-validation, the last training on all labels included."""

Fingerprint = Mapping[str, Any]
"""Of a run, name by name: its region, its labels, its split, its settings. JSON can hold it."""


def head_checkpoint_path(output: Path) -> Path:
    """Where the checkpoint of a fine-tuning towards `output` is kept."""
    return output.with_name(f".{output.name}.checkpoint")


def round_path(checkpoint: Path, number: int) -> Path:
    """The file of one round of a run: the first has the plain name, the further ones of a cross-validation a number."""
    return checkpoint if number == 0 else checkpoint.with_suffix(f".{number}.checkpoint")


def remove_checkpoints(output: Path) -> None:
    """Remove what a finished fine-tuning towards `output` kept."""
    first = head_checkpoint_path(output)
    for number in range(MOST_ROUNDS):
        round_path(first, number).unlink(missing_ok=True)


def save_checkpoint(
    path: Path, fingerprint: Fingerprint, tensors: Mapping[str, Tensor], state: Mapping[str, Any]
) -> None:
    """Write a checkpoint in the place of an earlier one.

    Args:
        path: of the file.
        fingerprint: of the run.
        tensors: of the networks and the optimizer.
        state: everything else; JSON can hold it.

    Raises:
        OutputError: the place cannot be written.
    """
    metadata = {"fingerprint": json.dumps(fingerprint, sort_keys=True), "state": json.dumps(state)}
    with replacing(path) as temporary:
        safetensors.torch.save_file(
            {name: each.detach().cpu().contiguous() for name, each in tensors.items()}, temporary, metadata
        )


def load_checkpoint(path: Path, fingerprint: Fingerprint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of a checkpoint.

    Raises:
        ArtifactError: there is none, it cannot be read, or it belongs to another run; the message names what differs.
    """
    if not path.exists():
        raise ArtifactError(f"there is no checkpoint {path} to resume from: start without --resume")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            made, state = json.loads(metadata["fingerprint"]), json.loads(metadata["state"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, KeyError, ValueError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole checkpoint ({error}): start again with --overwrite") from error
    now = json.loads(json.dumps(fingerprint))
    names = sorted(name for name in made.keys() | now.keys() if made.get(name) != now.get(name))
    if names:
        changes = listed([f"{name} (then {_short(made.get(name))}, now {_short(now.get(name))})" for name in names])
        raise ArtifactError(
            f"{path} belongs to another run; what differs: {changes}: give the same, or start again with --overwrite"
        )
    return tensors, state


def labels_digest(labels: Labels) -> str:
    """A hash of everything about labels that training depends on."""
    digest = hashlib.sha256()
    digest.update(json.dumps([labels.task, labels.scale, [each.model_dump() for each in labels.classes]]).encode())
    for each in labels.maps:
        digest.update(json.dumps([str(date) for date in each.dates]).encode())
        digest.update(each.values.tobytes())
    return digest.hexdigest()


def split_digest(split: Split) -> str:
    """A hash of a split."""
    digest = hashlib.sha256(json.dumps([split.shape, split.block, split.buffer]).encode())
    digest.update(split.validation.tobytes())
    if split.test is not None:
        digest.update(split.test.tobytes())
    return digest.hexdigest()


def _short(value: object) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 16 else f"{text[:12]}..."
