import time

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from training.trainer.data_wait import DataWait


class Sleepy(Dataset[torch.Tensor]):
    def __init__(self, seconds):
        self.seconds = seconds

    def __len__(self):
        return 6

    def __getitem__(self, index):
        time.sleep(self.seconds)
        return torch.ones(2)


class Busy(L.LightningModule):
    def __init__(self, seconds):
        super().__init__()
        self.seconds, self.layer = seconds, torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        time.sleep(self.seconds)
        return self.layer(batch).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize(("waiting", "computing"), [(0.05, 0.0), (0.0, 0.05)])
def test_only_the_time_inside_the_loader_counts(waiting, computing, tmp_path):
    profiler = DataWait()
    trainer = L.Trainer(
        accelerator="cpu", devices=1, max_epochs=1, profiler=profiler, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Busy(computing), DataLoader(Sleepy(waiting), batch_size=None))

    waited = profiler.take_seconds()
    assert waited >= 6 * 0.05 if waiting else waited < 3 * 0.05
    assert profiler.take_seconds() == 0
