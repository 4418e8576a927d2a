"""Runs that are kept while they last: one at a time works towards an output, and --resume goes on with one that was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import typer

from lianet_user.cli.console import StoppedError, is_first_process, warn
from lianet_user.errors import OutputError


def only_writer(output: Path) -> AbstractContextManager[None]:
    """Keep other runs from writing an output; of processes that share one run, the first holds the lock for all."""
    from lianet_user.files.lock import only_run

    return only_run(output) if is_first_process() else nullcontext()


def refuse_unfinished(checkpoint: Path, output: Path, allowed: bool) -> None:
    """Refuse to start afresh where an unfinished run would be lost.

    Raises:
        OutputError: there is a checkpoint, and neither resuming nor overwriting was asked for.
    """
    if checkpoint.exists() and not allowed:
        raise OutputError(
            f"an unfinished run towards {output} left {checkpoint}: go on from it with --resume, or start again with"
            " --overwrite"
        )


def training_checkpoint(context: typer.Context, output: Path, *, resume: bool, overwrite: bool) -> Path:
    """Where the trainings towards an output are kept, which no other run writes until the command ends.

    Raises:
        OutputError: another run writes the output, or an unfinished one would be lost.
    """
    from lianet_user.files.checkpoint import head_checkpoint_path

    context.with_resource(only_writer(output))
    checkpoint = head_checkpoint_path(output)
    refuse_unfinished(checkpoint, output, resume or overwrite)
    return checkpoint


@contextmanager
def resumable(checkpoint: Path | None, output: Path | None) -> Iterator[None]:
    """Where the block is stopped and a checkpoint is kept, say how to go on."""
    try:
        yield
    except (KeyboardInterrupt, StoppedError):
        if checkpoint and checkpoint.exists():
            warn(f"{output} is not finished: the same command with --resume goes on from where it stopped")
        raise
