"""`lianet-user models`: which models there are, and how to get, add and publish them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lianet_user.cli.console import announcer, err, in_megabytes, out, print_next, progress, quoted, warn, wrote
from lianet_user.cli.options import AsJson, Overwrite, Quiet
from lianet_user.errors import ArtifactError, CatalogError, CatalogWarning, InputError, printable

if TYPE_CHECKING:
    import datetime as dt

    from lianet_user.catalog import Catalog, Model

models = typer.Typer(
    name="models",
    help="Get models by name: list, fetch, add, publish.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

CatalogPlace = Annotated[
    str | None,
    typer.Option(
        "--catalog",
        metavar="PLACE",
        help="STAC catalogue: a path, an https:// or hf:// address. Default: LIANET_CATALOG, else the regions of this project.",
    ),
]


@models.command("list")
def list_models(
    bbox: Annotated[
        str | None, typer.Option(metavar="W,S,E,N", help="Only models of ground in this box, in degrees.")
    ] = None,
    date: Annotated[
        str | None, typer.Option(metavar="DATE[/DATE]", help="Only models that hold this date, or one of this time.")
    ] = None,
    catalog: CatalogPlace = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Do not ask the network: what the catalogue said last.")
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw where the models lie into a picture.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Which models there are, where, of which dates, and which are on this machine already.

    Example: lianet-user models list --bbox 12,52,13,53 --date 2017-01-01/2017-12-31
    """
    from lianet_user.files.artifact import refuse_existing
    from lianet_user.geo.grid import format_bounds, parse_bbox

    box = parse_bbox(bbox) if bbox is not None else None
    time = _time(date) if date is not None else None
    read, place = _all_models(catalog, offline)
    shown = [model for model in read if (box is None or model.touches(box)) and (time is None or model.holds(*time))]
    if box is not None and not any(model.touches(box) for model in read):
        south, west, north, east = box
        exchanged = west, south, east, north
        if any(model.touches(exchanged) for model in read):
            warn(f"--bbox {bbox} holds no model: with x and y exchanged it would, so give {format_bounds(exchanged)}")
    if picture is not None:
        refuse_existing(picture, overwrite, "another name with `picture`")
        from lianet_user.catalog.coverage import coverage_figure

        coverage_figure(shown, picture)
    if as_json:
        print(json.dumps({"catalog": place, "models": [_document(model) for model in shown]}, indent=2))
        return
    _print(shown, place, len(read))
    if picture is not None:
        wrote(picture)
    if shown:
        print_next(f"lianet-user info {shown[0].name}", f"lianet-user finetune {shown[0].name} LABELS")


@models.command("fetch")
def fetch_models(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Models, by the names in `models list`.")],
    catalog: CatalogPlace = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Download models, or what is new of them. An interrupted download goes on where it stopped.

    Commands that read a region take its name from then on, without network: lianet-user finetune havelland labels.gpkg

    Example: lianet-user models fetch havelland
    """
    from lianet_user.catalog import fetch
    from lianet_user.catalog.resolve import warn_of_problems

    opened = _opened(catalog)
    warn_of_problems(opened)
    for name in names:  # all names are known before anything is downloaded
        opened.model(name)
    written = []
    with progress(quiet) as bars:
        for name in dict.fromkeys(names):
            path, new = fetch(name, opened, announce=announcer(quiet), listener=in_megabytes(bars.task(name)))
            written.append({"name": name, "path": str(path), "fetched": new})
            if not quiet and not as_json:
                out.print(f"{name} is {'now ' if new else ''}here: {path}", soft_wrap=True)
    if as_json:
        print(json.dumps(written, indent=2))
    elif not quiet:
        print_next(f"lianet-user finetune {names[0]} LABELS")


@models.command("add")
def add_model(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Region file (.safetensors).")],
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Put a region file of your own among the models on this machine, to be used by the name in its header.

    Example: lianet-user models add updated.safetensors
    """
    from lianet_user.catalog import add

    path, model = add(file)
    if as_json:
        print(json.dumps({"name": model.name, "path": str(path)}, indent=2))
    elif not quiet:
        out.print(f"{model.name} is here: {path}", soft_wrap=True)
        print_next(f"lianet-user finetune {model.name} LABELS")


@models.command("publish")
def publish_models(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with region files (.safetensors).")],
    name: Annotated[str, typer.Option("--id", help="Identifier of the catalogue.")] = "regions",
    title: Annotated[str, typer.Option(help="Title of the catalogue.")] = "Regions for lianet_user",
    description: Annotated[
        str, typer.Option(help="Description of the catalogue, in a sentence.")
    ] = "Neural fields of regions of the Earth, for maps from labels without imagery.",
    provider: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME[=URL]", help="Who made and hosts the models; several times for several."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Make a catalogue of the region files in a folder, ready to be put on a web server as it stands.

    Example: lianet-user models publish regions/ --provider "My agency=https://agency.example"
    """
    from lianet_user.catalog import publish

    done = publish(
        folder,
        name=name,
        title=title,
        description=description,
        providers=tuple(_provider(text) for text in provider or []),
        overwrite=overwrite,
    )
    if as_json:
        listed = [{"name": model.name, "size": model.size, "sha256": model.sha256} for model in done.models]
        print(json.dumps({"catalog": str(done.catalog), "models": listed}, indent=2))
    elif not quiet:
        for head in done.heads:
            out.print(f"{head} is a head, and not listed: a catalogue holds regions", soft_wrap=True)
        for path in done.left:
            out.print(f"{path} is of an earlier catalogue, and nothing links to it any more", soft_wrap=True)
        names = ", ".join(model.name for model in done.models)
        wrote(done.catalog, f": {names}")
        print_next(
            f"lianet-user models list --catalog {quoted(done.catalog)}", f"put {folder} on a web server as it stands"
        )


def _opened(catalog: str | None) -> Catalog:
    from lianet_user.catalog import chosen_place, open_catalog
    from lianet_user.catalog.read import HOW_TO_NAME_ONE

    place = chosen_place(catalog)
    if place is None:
        raise CatalogError(f"there is no catalogue to look in: {HOW_TO_NAME_ONE}")
    return open_catalog(place)


def _all_models(catalog: str | None, offline: bool) -> tuple[list[Model], str | None]:
    """The models of the catalogue, and those on this machine that it does not know."""
    from lianet_user.catalog import Model, chosen_place, open_catalog
    from lianet_user.catalog.download import cached_models
    from lianet_user.catalog.resolve import warn_of_problems
    from lianet_user.files.artifact import open_region_file

    place = chosen_place(catalog)
    gathered: list[Model] = []
    if place is not None:
        read = open_catalog(place, offline=offline)
        warn_of_problems(read)
        gathered += read.models
    known = {model.sha256[:16] for model in gathered}
    for cached in cached_models():
        if cached.digest in known:
            continue
        try:
            file = open_region_file(cached.path)
            gathered.append(Model.of_file(file, file.sha256()))
        except ArtifactError as error:
            warnings.warn(f"left out: {error}", CatalogWarning, stacklevel=2)
    return gathered, place


def _print(shown: list[Model], place: str | None, total: int) -> None:
    from rich.table import Table

    from lianet_user.catalog.coverage import dates_of, marks, sketch
    from lianet_user.catalog.read import HOW_TO_NAME_ONE
    from lianet_user.catalog.resolve import local_file
    from lianet_user.geo.grid import format_bounds

    where = place or "none"
    if not shown:
        out.print(f"no model{f' of {total} fits' if total else ''} (catalogue: {where})", soft_wrap=True)
    if place is None:
        err.print(f"there is no catalogue to look in: {HOW_TO_NAME_ONE}", style="dim", soft_wrap=True)
    if not shown:
        return
    for line in sketch(shown):
        out.print(line, style="dim", soft_wrap=True)
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for mark, model in zip(marks(shown), shown, strict=True):
        level = f", remembered with {model.psnr_db:.1f} dB" if model.psnr_db is not None else ""
        lines = (
            model.title,
            f"{format_bounds(model.ground.bounds)} (W,S,E,N)",
            dates_of(model) + (", and estimates between" if model.between else ""),
            f"{len(model.bands)} bands{level}; {model.licence}",
            f"{model.megabytes}, {'on this machine' if local_file(model) else 'to be fetched'}",
        )
        table.add_row(mark, model.name, printable("\n".join(lines)))
    out.print(table)
    out.print(f"catalogue: {printable(where)}", style="dim", soft_wrap=True)


def _document(model: Model) -> dict[str, Any]:
    from lianet_user.catalog.resolve import local_file

    path = local_file(model)
    return {**model.model_dump(mode="json"), "path": str(path) if path else None}


def _time(text: str) -> tuple[dt.date, dt.date]:
    from lianet_user.files.header import parse_date

    first, slash, last = text.partition("/")
    start, end = parse_date(first), parse_date(last if slash else first)
    if end < start:
        raise InputError(f"--date {text!r} ends before it begins: expected FIRST/LAST")
    return start, end


def _provider(text: str) -> Any:
    from lianet_user.catalog import Provider

    name, _, url = text.partition("=")
    if not 1 <= len(name.strip()) <= 200 or (url and not url.startswith(("https://", "http://"))):
        raise InputError(f"--provider {text!r}: expected NAME or NAME=https://address")
    return Provider(name=name.strip(), roles=("processor", "host"), url=url or None)
