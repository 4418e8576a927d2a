"""Training: encoding regions from imagery, and heads from labels."""

from lianet_user.training.finetune import FinetuneProgress, FinetuneSettings, finetune
from lianet_user.training.pretrain import PretrainProgress, PretrainSettings, pretrain

__all__ = [
    "FinetuneProgress",
    "FinetuneSettings",
    "PretrainProgress",
    "PretrainSettings",
    "finetune",
    "pretrain",
]
