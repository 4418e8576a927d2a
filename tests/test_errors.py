"""Errors are one line each and know the exit code they end with."""

from __future__ import annotations

import pytest

from lianet_user import errors

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
