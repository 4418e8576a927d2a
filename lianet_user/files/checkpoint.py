"""Checkpoints: one safetensors file, written whole or not at all, that says what run it belongs to.

A training is kept by the clock (:class:`Clock`) and whenever its listener ends it. A study of many trainings keeps the results
of those that are finished (:class:`FinishedRuns`) and the checkpoint of the one that is under way."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lianet_user.errors import ArtifactError, brief, listed
from lianet_user.files.artifact import replacing
from lianet_user.files.container import open_container, parse_json, write_container

if TYPE_CHECKING:
    from torch import Tensor

MOST_ROUNDS = 64
"""Rounds of a cross-validation at most, the last training on all labels included."""

KEPT_EVERY = 30.0
"""Seconds between two checkpoints at most, and one step: what a run that is killed has lost."""

Fingerprint = Mapping[str, Any]
"""What identifies a run, name by name: its region, labels, split and settings. JSON can hold it."""


def head_checkpoint_path(output: Path) -> Path:
    """Where the checkpoint of a fine-tuning towards `output` is kept."""
    return output.with_name(f".{output.name}.checkpoint")


def round_path(checkpoint: Path, number: int) -> Path:
    """The file of one round of a run: the first has the plain name, the further ones of a cross-validation a number."""
    return checkpoint if number == 0 else checkpoint.with_suffix(f".{number}.checkpoint")


def remove_checkpoints(output: Path) -> None:
    """Remove the checkpoints of a finished fine-tuning towards `output`."""
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
    with replacing(path) as temporary, open(temporary, "wb") as file:
        write_container(file, {name: each.detach().cpu().numpy() for name, each in tensors.items()}, metadata)


def load_checkpoint(path: Path, fingerprint: Fingerprint) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the state of a checkpoint.

    Raises:
        ArtifactError: there is none, it cannot be read, or it belongs to another run; the message names what differs.
    """
    import torch  # where a checkpoint lies is told without it

    if not path.exists():
        raise ArtifactError(f"there is no checkpoint {path} to resume from: start without `resume`")
    with _readable(path):
        file = open_container(path, "checkpoint")
        texts = (file.metadata.get("fingerprint", ""), file.metadata.get("state", ""))
        made, state = (parse_json(text.encode("utf-8", "surrogatepass"), path, "checkpoint") for text in texts)
    now = json.loads(json.dumps(fingerprint))
    names = sorted(name for name in made.keys() | now.keys() if made.get(name) != now.get(name))
    if names:
        changes = listed(
            [f"{brief(each, 40)} (then {_short(made.get(each))}, now {_short(now.get(each))})" for each in names]
        )
        raise ArtifactError(
            f"{path} belongs to another run; what differs: {changes}: give the same, or start again without `resume`"
        )
    with _readable(path):
        return {name: torch.from_numpy(array) for name, array in file.tensors().items()}, state


class Clock:
    """Says when the next checkpoint of a run is due."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Count from now, when the run begins or was kept."""
        self._since = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether more than :data:`KEPT_EVERY` seconds have gone by."""
        return time.monotonic() - self._since >= KEPT_EVERY


@dataclass(frozen=True)
class Checkpoint:
    """Where a training is kept, and what it is."""

    path: Path
    fingerprint: Fingerprint
    resume: bool
    """Go on from what is there."""


def run_name(*made_of: Any) -> str:
    """A name that only a run has that is made of the same, which JSON can hold."""
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


class FinishedRuns:
    """The results of a study's trainings, in a file, so that a study that broke off goes on with the training it was at.

    Args:
        path: of the file; None keeps nothing.
        fingerprint: of the study.
        resume: go on from what is there.

    Raises:
        ArtifactError: `resume`, and there is nothing to go on from, or it belongs to another study.
    """

    def __init__(self, path: Path | None, fingerprint: Fingerprint, resume: bool) -> None:
        self._path, self._fingerprint, self._resume = path, fingerprint, resume
        self._results: dict[str, Any] = dict(load_checkpoint(path, fingerprint)[1]) if path and resume else {}

    def get(self, run: str) -> Any:
        """What :meth:`keep` was given for a run; None where it is not finished."""
        return self._results.get(run)

    def keep(self, run: str, result: Any) -> None:
        """Keep the result of a finished run; JSON can hold it."""
        self._results[run] = result
        if self._path:
            save_checkpoint(self._path, self._fingerprint, {}, self._results)
            round_path(self._path, 1).unlink(missing_ok=True)

    def training(self, run: str) -> Checkpoint | None:
        """The checkpoint of a run that is not finished, to go on from where there is one."""
        if not self._path:
            return None
        path, fingerprint = round_path(self._path, 1), {**self._fingerprint, "run": run}
        if not self._path.exists():  # what is resumed has to be there, if only to say that nothing is finished yet
            save_checkpoint(self._path, self._fingerprint, {}, self._results)
        resume = self._resume and path.exists()
        if resume:
            try:
                load_checkpoint(path, fingerprint)
            except ArtifactError:  # of a run that was kept in the moment that it was killed
                resume = False
        return Checkpoint(path, fingerprint, resume)


@contextmanager
def restoring(path: Path) -> Iterator[None]:
    """Turn any error of a block that restores a run into one about the checkpoint.

    Raises:
        ArtifactError: something in it is missing, extra, misshapen or of another kind.
    """
    try:
        yield
    # What a dict, a tuple, torch and its optimizers raise on contents other than those that were saved.
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _not_whole(path, error) from error


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except ArtifactError as error:
        raise _not_whole(path, error) from error


def _not_whole(path: Path, error: Exception) -> ArtifactError:
    return ArtifactError(f"{path} is not a whole checkpoint ({brief(str(error), 300)}): start again without `resume`")


def moments_like(parameters: Sequence[Tensor], tensors: Mapping[str, Tensor]) -> dict[int, dict[str, Tensor]]:
    """The optimizer's state in a checkpoint, laid out in memory as the parameters are: sums are rounded in that order.

    Args:
        parameters: in the optimizer's order.
        tensors: by the parameter's number and the name of the moment, with a dot between them; none before the first step.

    Raises:
        ValueError: they are the moments of other parameters.
    """
    import torch

    if not tensors:
        return {}
    state: dict[int, dict[str, Tensor]] = {number: {} for number in range(len(parameters))}
    for key, tensor in tensors.items():
        place, _, name = key.partition(".")
        state[int(place)][name] = tensor
    for number, parameter in enumerate(parameters):
        kept = state[number]
        same_shapes({"step": torch.zeros(()), "exp_avg": parameter, "exp_avg_sq": parameter}, kept)
        for name in ("exp_avg", "exp_avg_sq"):
            kept[name] = torch.empty_like(parameter).copy_(kept[name])
    return state


def same_shapes(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> None:
    """Check that stored tensors have the names and shapes of a run's own.

    Raises:
        ValueError: a tensor is missing, extra or misshapen.
    """
    for name in sorted(own.keys() | stored.keys()):
        shapes = tuple(tuple(each[name].shape) if name in each else None for each in (own, stored))
        if shapes[0] != shapes[1]:
            raise ValueError(f"tensor {brief(name)!r} is {shapes[1]}, expected {shapes[0]}")


def _short(value: object) -> str:
    return brief("none" if value is None else str(value), 16)
