"""Training: encoding regions from imagery, and heads from labels."""

from lianet_user.training.finetune import FinetuneProgress, FinetuneSettings, finetune
from lianet_user.training.pretrain import PretrainProgress, PretrainSettings, pretrain
from lianet_user.training.samples import split_blocks

__all__ = [
    "FinetuneProgress",
    "FinetuneSettings",
    "PretrainProgress",
    "PretrainSettings",
    "finetune",
    "pretrain",
    "split_blocks",
]
