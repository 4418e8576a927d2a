"""Files on the Hugging Face Hub: `hf://owner/repository/file`, or `hf://owner/repository@revision/file`. An extra.

Only the address and the user's token come from `huggingface_hub`. What it sends is received and checked like anything else
(:mod:`lianet_user.catalog.download`).
"""

from __future__ import annotations

from urllib.parse import urlsplit

from lianet_user.errors import CatalogError


def hub_request(place: str) -> tuple[str, dict[str, str]]:
    """The https address of a file on the Hub, and the headers to ask for it with.

    Raises:
        CatalogError: `huggingface_hub` is not installed, or the place is none.
    """
    try:
        from huggingface_hub import get_token, hf_hub_url
    except ImportError as error:
        raise CatalogError(
            f"{place} is on the Hugging Face Hub, which needs {error.name}: install it with pip install 'lianet-user[hub]'"
        ) from error
    parts = urlsplit(place)
    repository, _, file = parts.path.strip("/").partition("/")
    repository, _, revision = repository.partition("@")
    try:
        address = hf_hub_url(f"{parts.netloc}/{repository}", file, revision=revision or None)
    except ValueError as error:  # a name that the Hub does not allow
        raise CatalogError(f"{place} is no file on the Hugging Face Hub: {error}") from error
    token = get_token()
    return address, {"Authorization": f"Bearer {token}"} if token else {}
