"""What puts the documentation site together (MkDocs hooks, named in mkdocs.yml).

The site is the repository as a reader of the sources sees it: README.md, CONTRIBUTING.md, benchmarks/README.md and docs/ are
its pages, under the same names, so that a link between them is right in both places and nothing is said twice. Files that
pages link to come along. Tutorials enter the navigation as they are there, and the commands' pages are made from Typer.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from lianet_user.cli import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = ("*.md", "benchmarks/README.md", "models/README.md", "docs/**/*.md", "docs/*.css", "tutorials/*.md")
COMMANDS = "docs/commands/"
LINK = re.compile(r"\]\(([^)#:?]+)")
"""Of a page to something beside it."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill in the parts of the navigation that follow from what there is."""
    found = {
        "Tutorials": [
            page.relative_to(ROOT).as_posix()
            for page in sorted(ROOT.glob("tutorials/*.md"), key=lambda page: (page.stem != "README", page))
        ],
        "Commands": [{title: f"{COMMANDS}{slug}.md"} for title, slug, _ in _commands()],
    }
    assert config.nav is not None
    for entry in list(config.nav):
        (title,) = entry
        if title in found:
            entry[title] = found[title]
            if not found[title]:
                config.nav.remove(entry)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the repository's pages, and what they link to, in the place of those that MkDocs found in docs/."""
    for file in list(files):
        if file.src_dir == config.docs_dir:
            files.remove(file)
    pages = sorted({page for pattern in PAGES for page in ROOT.glob(pattern)})
    linked = {
        (page.parent / link).resolve() for page in pages for link in LINK.findall(page.read_text(encoding="utf-8"))
    }
    for path in [*pages, *sorted(path for path in linked - {*pages} if path.is_file())]:
        name = path.relative_to(ROOT).as_posix()
        files.append(File(name, str(ROOT), config.site_dir, config.use_directory_urls))
    for title, slug, command in _commands():
        files.append(File.generated(config, f"{COMMANDS}{slug}.md", content=_page(title, command)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """What other readers of Markdown see to by themselves: a folder is its README, and two spaces make a list in a list."""
    folder = (ROOT / page.file.src_uri).parent

    def readme(link: re.Match[str]) -> str:
        return f"{link[0].rstrip('/')}/README.md" if (folder / link[1] / "README.md").is_file() else link[0]

    markdown = LINK.sub(readme, markdown)
    return re.sub(r"^ {2,3}(?=[-*] )", "    ", markdown, flags=re.MULTILINE)


def _commands() -> list[tuple[str, str, Any]]:
    """Title, name of the page and Typer's object of every command, in the order of `lianet-user --help`."""
    every = []
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]  # it is a group
        for below in getattr(command, "commands", {"": command}):
            title = f"{name} {below}".strip()
            every.append((title, title.replace(" ", "-"), command.commands[below] if below else command))
    return every


def _page(title: str, command: Any) -> str:
    """A command's page: what it is for, its example, and its options in the groups of its help."""
    about, _, example = command.help.partition("Example: ")
    context = typer.Context(command, info_name=f"lianet-user {title}")
    panels: dict[str, list[str]] = {}
    usage = []
    for parameter in command.params:
        written, meaning = parameter.get_help_record(context)
        panel = parameter.rich_help_panel or ("Arguments" if parameter.param_type_name == "argument" else "Options")
        if panel == "Arguments":
            written = parameter.metavar
            usage.append(written)
        panels.setdefault(panel, []).append(f"`{written}`\n:   {_escaped(meaning)}\n")
    blocks = [f"# {title}", about.strip(), f"```sh\n{example.strip()}\n```"]
    blocks.append("```\n" + " ".join(["lianet-user", title, "[OPTIONS]", *usage]) + "\n```")
    for panel in sorted(panels, key=lambda name: (name != "Arguments", name == "Running")):
        blocks += [f"## {panel}", "\n".join(panels[panel])]
    return "\n\n".join(blocks) + "\n"


def _escaped(text: str) -> str:
    """A help text as Markdown that shows it as it stands; what is in backticks stays so."""
    return re.sub(r"([*_\[\]])", r"\\\1", html.escape(text, quote=False))
