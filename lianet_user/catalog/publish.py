"""A provider's region files -> a static STAC catalogue beside them, ready to be hosted as it stands.

    FOLDER/
      catalog.json          links to the items; its place is what `catalog` and LIANET_CATALOG expect
      items/NAME.json       one Item for each region file, with the MLM and file extensions
      NAME.safetensors      as they were

All links are relative, so the folder may be moved, copied to a web server, or put into a repository on the Hub.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lianet_user.catalog.model import ARTIFACT_TYPE, ASSET, ROOT_NAME, SHA256_MULTIHASH, Model, Provider
from lianet_user.errors import ArtifactError, CatalogError, InputError
from lianet_user.files.artifact import open_head_file, open_region_file, refuse_existing, replacing

if TYPE_CHECKING:
    import pystac

    from lianet_user.files.header import RegionHeader

ITEMS = "items"
MEDIA_TYPE = "application/octet-stream; application=safetensors"
SPDX = {"CC-BY-4.0", "CC-BY-SA-4.0", "CC0-1.0", "Apache-2.0", "MIT", "ODbL-1.0", "CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"}
"""Licences that go into an Item as they stand; any other becomes `other`, and its text is a property beside it."""


@dataclass(frozen=True)
class Published:
    """A catalogue that was written.

    Attributes:
        catalog: path of the catalogue.
        models: that it lists.
        heads: head files beside them, which it does not list.
        left: items of an earlier catalogue that nothing links to any more.
    """

    catalog: Path
    models: tuple[Model, ...]
    heads: tuple[Path, ...]
    left: tuple[Path, ...]


def publish(
    folder: Path,
    *,
    name: str = "regions",
    title: str = "Regions for lianet_user",
    description: str = "Neural fields of regions of the Earth, for maps from labels without imagery.",
    providers: tuple[Provider, ...] = (),
    overwrite: bool = False,
) -> Published:
    """Write the catalogue of all region files in a folder. Every file is read completely, to compute its hash.

    The catalogue's own document is written last: until then an earlier one stays in force.

    Args:
        folder: with the region files; subfolders are ignored.
        name, title, description: of the catalogue; the name is its identifier.
        providers: who hosts or made the models, on every item.
        overwrite: replace a catalogue that is there.

    Raises:
        ArtifactError: a file is not a region or head file, or not complete.
        CatalogError: there is not a region file, two have one name, or pystac is not installed.
        OutputError: a catalogue is there, or it cannot be written.
    """
    try:
        import pystac
    except ImportError as error:
        raise CatalogError(
            f"publishing needs {error.name}, which is not installed: install it with pip install 'lianet-user[provider]'"
        ) from error
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: give the folder that holds your region files")
    headers, models, heads = _models(folder, providers)
    target = folder / ROOT_NAME
    refuse_existing(target, overwrite, "another folder")
    catalog = pystac.Catalog(id=name, title=title, description=description)
    catalog.set_self_href(str(target.absolute()))
    for header, model in zip(headers, models, strict=True):
        catalog.add_item(item := _item(model, header))
        item.set_self_href(str(folder.absolute() / ITEMS / f"{model.name}.json"))
    catalog.catalog_type = pystac.CatalogType.SELF_CONTAINED
    try:
        (folder / ITEMS).mkdir(exist_ok=True)
    except OSError as error:
        raise CatalogError(f"cannot make {folder / ITEMS}: {error.strerror or error}") from error
    for item in catalog.get_items():
        _write(folder / ITEMS / f"{item.id}.json", item.to_dict(include_self_link=False))
    _write(target, catalog.to_dict(include_self_link=False))
    left = sorted(set((folder / ITEMS).glob("*.json")) - {folder / ITEMS / f"{model.name}.json" for model in models})
    return Published(target, tuple(models), tuple(heads), tuple(left))


def _models(folder: Path, providers: tuple[Provider, ...]) -> tuple[list[RegionHeader], list[Model], list[Path]]:
    headers: dict[str, RegionHeader] = {}
    models: list[Model] = []
    heads: list[Path] = []
    for path in sorted(folder.glob("*.safetensors")):
        try:
            file = open_region_file(path)
        except ArtifactError as error:
            try:
                open_head_file(path)
            except ArtifactError:
                raise error from None
            heads.append(path)
            continue
        file.tensors()  # a file that cannot be opened must not be published
        model = Model.of_file(file, file.sha256(), providers)
        if model.name in headers:
            other = next(each.place for each in models if each.name == model.name)
            raise CatalogError(
                f"{other} and {path} are both regions named {model.name!r}, and a catalogue finds a model by its name: publish"
                " one of them, or encode one under another name"
            )
        headers[model.name] = file.header
        models.append(model)
    if not models:
        raise CatalogError(f"{folder} holds no region file (*.safetensors): make one with lianet-user pretrain")
    return list(headers.values()), models, heads


def _item(model: Model, header: RegionHeader) -> pystac.Item:
    """The Item of a model; its asset lies one folder up."""
    import pystac
    from pystac.extensions.file import FileExtension
    from pystac.extensions.mlm import InputStructure, MLMExtension, ModelInput, ModelOutput, ResultStructure, TaskType
    from pystac.extensions.raster import DataType
    from pystac.utils import datetime_to_str, str_to_datetime

    first, last = (str_to_datetime(f"{date}T00:00:00Z") for date in (model.dates[0], model.dates[-1]))
    licence = model.licence if model.licence in SPDX else "other"
    item = pystac.Item(
        id=model.name,
        geometry=model.geometry,
        bbox=list(_bbox(model)),
        datetime=first if first == last else None,
        start_datetime=None if first == last else first,
        end_datetime=None if first == last else last,
        properties={
            "title": model.title,
            "description": model.description,
            "created": datetime_to_str(model.created),
            "license": licence,
            "lianet:attribution": model.attribution,
            "lianet:bands": list(model.bands),
            "lianet:between": model.between,
            "lianet:dates": [str(date) for date in model.dates],
            **({"lianet:psnr_db": model.psnr_db} if model.psnr_db is not None else {}),
            **({"lianet:licence": model.licence} if licence == "other" else {}),
        },
    )
    if model.providers:
        item.common_metadata.providers = [
            pystac.Provider(name=one.name, roles=[pystac.ProviderRole(role) for role in one.roles] or None, url=one.url)
            for one in model.providers
        ]
    tasks = [TaskType.REGRESSION, TaskType.SEMANTIC_SEGMENTATION]
    MLMExtension.ext(item, add_if_missing=True).apply(
        name=model.name,
        architecture=model.architecture,
        tasks=tasks,
        framework="pytorch",
        total_parameters=model.parameters,
        pretrained=True,
        pretrained_source=header.provenance.source,
        input=[
            ModelInput.create(
                name="coordinates",
                bands=[],
                input=InputStructure.create(
                    shape=[-1, -1, 2], dim_order=["y", "x", "coordinate"], data_type=DataType.FLOAT32
                ),
                description="Pixels of the region's grid, and a date that the region holds. No imagery.",
            )
        ],
        output=[
            ModelOutput.create(
                name="reflectance",
                tasks=[TaskType.REGRESSION],
                result=ResultStructure.create(
                    shape=[len(model.bands), -1, -1], dim_order=["band", "y", "x"], data_type=DataType.FLOAT32
                ),
                description=f"The imagery as it is remembered, bands {', '.join(model.bands)}.",
            ),
            ModelOutput.create(
                name="features",
                tasks=tasks,
                result=ResultStructure.create(
                    shape=[header.field.decoder.features, -1, -1],
                    dim_order=["feature", "y", "x"],
                    data_type=DataType.FLOAT32,
                ),
                description="What heads read: train one on labels with lianet-user finetune.",
            ),
        ],
    )
    asset = pystac.Asset(
        href=f"../{Path(model.place).name}",
        title="Region file",
        media_type=MEDIA_TYPE,
        roles=["mlm:model", "data"],
        extra_fields={"mlm:artifact_type": ARTIFACT_TYPE},
    )
    item.add_asset(ASSET, asset)
    FileExtension.ext(asset, add_if_missing=True).apply(checksum=SHA256_MULTIHASH + model.sha256, size=model.size)
    return item


def _bbox(model: Model) -> tuple[float, float, float, float]:
    """West, south, east, north; west is the greater of ground that crosses the antimeridian, as GeoJSON wants it."""
    west, south, east, north = model.ground.bounds
    parts = getattr(model.ground, "geoms", ())
    if len(parts) > 1 and east - west > 180:
        west = min(part.bounds[0] for part in parts if part.bounds[0] > 0)
        east = max(part.bounds[2] for part in parts if part.bounds[2] < 0)
    return west, south, east, north


def _write(path: Path, document: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
