"""Heads with random layers on a region that is open already, and classes for them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Literal

from factories import randomize

from lianet_user.field.config import HeadConfig, HeadInput
from lianet_user.field.head import HeadEnsemble
from lianet_user.files.header import ClassEntry, HeadHeader, Numbers, Provenance, RegionRef
from lianet_user.head import Head
from lianet_user.region import Region


def entries(names: Sequence[str] | int) -> tuple[ClassEntry, ...]:
    """Classes of these names, or so many of any name."""
    if isinstance(names, int):
        names = [f"class {n}" for n in range(names)]
    return tuple(ClassEntry(name=name, color=f"#0000{n:02x}") for n, name in enumerate(names))


def random_head(
    region: Region,
    inputs: tuple[HeadInput, ...],
    *,
    classes: Sequence[ClassEntry] = (),
    numbers: Numbers | None = None,
    widths: tuple[int, ...] = (16, 8),
    members: int = 1,
    scale: Literal[1, 4] = 1,
    dates: tuple[dt.date, ...] | None = None,
    seed: int = 0,
) -> Head:
    """A head of random layers that answers with `classes` or with `numbers`; its dates are the region's unless given."""
    config = HeadConfig(
        inputs=inputs,
        in_channels=region.channels(inputs),
        widths=widths,
        outputs=1 if numbers else len(classes),
        norm="batch",
        members=members,
        scale=scale,
        output="number" if numbers else "logits",
    )
    layers = HeadEnsemble(config)
    randomize(layers, seed)
    assert region.sha256 is not None
    header = HeadHeader(
        task="regression" if numbers else "segmentation",
        numbers=numbers,
        classes=tuple(classes),
        head=config,
        region=RegionRef(
            name=region.header.name, lineage=region.header.lineage, sha256=region.sha256, path=str(region.path)
        ),
        dates=region.header.dates if dates is None else dates,
        scores=None,
        provenance=Provenance(created=dt.datetime(2025, 1, 1, tzinfo=dt.UTC), source="x", settings={}, software={}),
        attribution="",
    )
    return Head(header, layers, region)
