"""Training: encoding regions from imagery, and heads from labels."""

from lianet_user.training.finetune import Finetuned, FinetuneProgress, finetune
from lianet_user.training.pretrain import RegionWords, pretrain
from lianet_user.training.settings import PretrainSettings
from lianet_user.training.tasks import FinetuneSettings
from lianet_user.training.trainer import PretrainProgress
from lianet_user.training.update import UpdateSettings, update

__all__ = [
    "FinetuneProgress",
    "FinetuneSettings",
    "Finetuned",
    "PretrainProgress",
    "PretrainSettings",
    "RegionWords",
    "UpdateSettings",
    "finetune",
    "pretrain",
    "update",
]
