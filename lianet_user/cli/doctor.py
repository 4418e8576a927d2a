"""`lianet-user doctor`: can this machine do the whole loop, and what to do where it cannot."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from lianet_user.cli.console import err, out, print_next
from lianet_user.cli.options import AsJson
from lianet_user.errors import EXIT_FAILURE, printable

MARKS = {"fine": ("ok", "green"), "warning": ("warning", "yellow"), "broken": ("BROKEN", "bold red")}


def doctor(as_json: AsJson = False) -> None:
    """Look at versions, devices, GDAL, threads, memory, disk and cache, and try the loop for a few seconds.

    It ends with exit code 1 where something is broken.

    Example: lianet-user doctor
    """
    from rich.table import Table
    from rich.text import Text

    from lianet_user.doctor import examine, is_broken

    with err.status("") as status:
        findings = examine(lambda topic: status.update(f"looking at {topic}"))
    broken = is_broken(findings)
    if as_json:
        print(json.dumps({"broken": broken, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        table = Table.grid(padding=(0, 2))
        table.add_column()
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        before = ""
        for finding in findings:
            mark, style = MARKS[finding.level]
            topic = finding.topic if finding.topic != before else ""
            table.add_row(Text(mark, style), topic, printable(finding.found))
            if finding.advice:
                table.add_row("", "", f"-> {printable(finding.advice)}")
            before = finding.topic
        out.print(table)
        verdict = "something is broken: see above" if broken else "nothing is broken"
        out.print(verdict, style="bold red" if broken else "bold green")
        print_next("lianet-user doctor again once that is mended" if broken else "lianet-user models list")
    if broken:
        raise typer.Exit(EXIT_FAILURE)
