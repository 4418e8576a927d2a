"""Options that several commands have: declared once, as a function's parameters, and put into each command's own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import typer

Command = Callable[..., None]


def grouped(panel: str, help_text: str, *names: str, metavar: str | None = None, **more: Any) -> Any:
    """An option that the help shows in a panel of its own."""
    return typer.Option(*names, help=help_text, metavar=metavar, rich_help_panel=panel, **more)


def option_group(name: str, build: Callable[..., Any], prefix: str = "") -> Callable[[Command], Command]:
    """A decorator that gives a command all parameters of `build` in the place of its parameter `name`.

    Args:
        name: of the command's parameter, which receives what `build` makes of the options.
        build: keyword-only parameters, declared as Typer wants them.
        prefix: put before their names, for a command that has options of these names already.
    """
    shared = [
        each.replace(name=prefix + each.name, kind=inspect.Parameter.KEYWORD_ONLY)
        for each in inspect.signature(build, eval_str=True).parameters.values()
    ]

    def decorate(command: Command) -> Command:
        own = inspect.signature(command, eval_str=True)

        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            chosen = {each.name.removeprefix(prefix): arguments.pop(each.name) for each in shared}
            command(**arguments, **{name: build(**chosen)})

        kept = [parameter for each, parameter in own.parameters.items() if each != name]
        parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*kept, *shared)]
        wrapper.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
        return wrapper

    return decorate
