"""Our ResNet encoders are segmentation-models-pytorch's: the same names, shapes and numbers."""

from __future__ import annotations

import pytest
import torch
from factories import randomize

from lianet_user.field.decoder import BLOCKS, ResNetEncoder
from lianet_user.field.torchvision_ops import import_torchvision

pytestmark = pytest.mark.numerics


def reference(name: str, channels: int, depth: int) -> torch.nn.Module:
    """The library's encoder without the stages that it builds and never runs."""
    import_torchvision()
    from segmentation_models_pytorch.encoders import get_encoder

    encoder: torch.nn.Module = get_encoder(name, in_channels=channels, depth=depth, weights=None)
    for unused in range(depth, 5):
        delattr(encoder, f"layer{unused}")
    return encoder


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("depth", [1, 3, 5])
def test_it_has_the_librarys_tensors(name: str, depth: int) -> None:
    with torch.device("meta"):
        own, other = ResNetEncoder(name, 20, depth).state_dict(), reference(name, 20, depth).state_dict()
    assert [(name, tensor.shape) for name, tensor in own.items()] == [(n, t.shape) for n, t in other.items()]


@pytest.mark.parametrize(("name", "depth"), [("resnet18", 3), ("resnet50", 5)])
@pytest.mark.parametrize("training", [False, True])
def test_it_computes_what_the_library_does(name: str, depth: int, training: bool) -> None:
    own, other = ResNetEncoder(name, 8, depth).train(training), reference(name, 8, depth).train(training)
    randomize(own)
    other.load_state_dict(own.state_dict())
    window = torch.randn(2, 8, 64, 96, generator=torch.Generator().manual_seed(0))
    _, *expected = other(window)
    found = own(window)
    assert own.out_channels == [each.shape[1] for each in expected]
    for one, another in zip(found, expected, strict=True):
        torch.testing.assert_close(one, another, atol=1e-4, rtol=1e-5)


def test_its_weights_begin_as_the_librarys() -> None:
    torch.manual_seed(0)
    own, other = ResNetEncoder("resnet18", 64, 3).state_dict(), reference("resnet18", 64, 3).state_dict()
    for name, tensor in other.items():
        spread, expected = (each.float().std(correction=0).item() for each in (own[name], tensor))
        assert spread == pytest.approx(expected, rel=0.05), name
