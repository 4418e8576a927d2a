"""Errors are one line each and know the exit code they end with."""

from __future__ import annotations

import pytest

from lianet_user import errors
from lianet_user.cli import as_options

ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.LianetError)]
WARNINGS = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Warning)]


@pytest.mark.parametrize("error", ERRORS)
def test_message_is_one_line(error: type[errors.LianetError]) -> None:
    assert str(error("labels.gpkg has\n  two\tproblems\r\n")) == "labels.gpkg has two problems"


def test_message_cannot_steer_the_terminal() -> None:
    # Names come from files that somebody else made.
    assert str(errors.ArtifactError("field \x1b[2J\x07evil is not known")) == "field ?[2J?evil is not known"


def test_text_keeps_its_lines_but_no_control_characters() -> None:
    assert errors.printable("Häuser  [x]\n\x1b]0;title\x9b") == "Häuser  [x]\n?]0;title?"


def test_only_bad_input_ends_with_two() -> None:
    assert (errors.EXIT_OK, errors.EXIT_FAILURE, errors.EXIT_BAD_INPUT, errors.EXIT_INTERRUPTED) == (0, 1, 2, 130)
    for error in ERRORS:
        expected = errors.EXIT_BAD_INPUT if issubclass(error, errors.InputError) else errors.EXIT_FAILURE
        assert error.exit_code == expected, error


def test_a_failed_training_is_not_the_input_s_fault() -> None:
    assert not issubclass(errors.TrainingError, errors.InputError)


@pytest.mark.parametrize("warning", WARNINGS)
def test_warnings_share_a_root_that_can_be_filtered(warning: type[Warning]) -> None:
    assert issubclass(warning, errors.LianetWarning)
    assert issubclass(warning, UserWarning)


@pytest.mark.parametrize(
    ("command", "message", "printed"),
    [
        ("predict", "`min_area` 0: expected hectares", "--min-area 0: expected hectares"),
        ("predict", "`crs`, `turned` and `creation_options`", "--dst-crs, --tta and --co"),
        ("finetune", "train without `start`", "train without --from"),
        ("models list", "give one with `date`", "give one with --date"),
        ("compare", "`mask` and `scale`", "--imagery-mask and --scale"),
        ("info", "omit `min_area`", "omit `min_area`"),
        ("predict", "`lianet-user finetune R LABELS --from H`", "`lianet-user finetune R LABELS --from H`"),
    ],
)
def test_a_command_prints_its_options_for_arguments(command: str, message: str, printed: str) -> None:
    assert as_options(message, command.split()) == printed
