"""Features of labels that memory does not hold."""

from __future__ import annotations

import errno
from pathlib import Path
from unittest import mock

import pytest
import torch

from lianet_user.errors import OutputError
from lianet_user.finetuning.samples import FeatureCache


def features(seed: int) -> torch.Tensor:
    return torch.randn(5, 7, 9, generator=torch.Generator().manual_seed(seed)).to(torch.float16)


def test_what_memory_may_not_hold_lies_in_a_file_and_is_the_same(tmp_path: Path) -> None:
    held = FeatureCache(1.5 * features(0).nbytes / 1e9, tmp_path)
    kept = [held.keep(features(seed)) for seed in range(4)]
    assert held.in_memory == features(0).nbytes
    assert held.on_disk == 3 * features(0).nbytes
    for seed, values in enumerate(kept):
        assert torch.equal(values, features(seed))
    kept[2].mul_(2)  # as standardising does
    assert torch.equal(kept[2], features(2) * 2)
    assert torch.equal(kept[1], features(1))
    assert torch.equal(kept[3], features(3))


def test_it_copies_what_it_is_given_and_keeps_the_order_of_a_part(tmp_path: Path) -> None:
    for most_gb in (0.0, 1.0):
        values = features(0)
        kept = FeatureCache(most_gb, tmp_path).keep(values[:, 2:5, 1:4])
        values.zero_()
        assert torch.equal(kept, features(0)[:, 2:5, 1:4])


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    with (
        mock.patch("lianet_user.finetuning.samples.tempfile.TemporaryFile", side_effect=full),
        pytest.raises(OutputError, match="No space left on device: make room"),
    ):
        FeatureCache(0.0, tmp_path).keep(features(0))
