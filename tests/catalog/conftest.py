"""A server without answers, and a catalogue of one region."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from web import ROMANIA, Web, serving

from lianet_user.catalog import download, publish


@pytest.fixture(scope="session")
def server() -> Iterator[Web]:
    with serving() as web:
        yield web


@pytest.fixture
def web(server: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    """The server, which has no answers and was asked nothing yet; nobody waits for it long."""
    monkeypatch.setattr(download, "PAUSE_S", 0.0)
    monkeypatch.setattr(download, "TIMEOUT_S", 2.0)
    for held in (server.answers, server.asked, server.headers):
        held.clear()
    return server


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a catalogue of one region, `romania`, which nobody changes."""
    folder = tmp_path_factory.mktemp("original")
    shutil.copy(ROMANIA, folder)
    publish(folder)
    return folder
