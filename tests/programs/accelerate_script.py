"""A text classifier with accelerate: accumulation, mixed precision, a scheduler."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(nn.Module):
    """An encoder over the tokens, and two classes for their mean."""

    def __init__(self, vocabulary=8000, width=256, layers=3, num_classes=2):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, num_classes)

    def forward(self, tokens):
        return self.head(self.encoder(self.embedding(tokens)).mean(1))


def main():
    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=4)
    tokens = torch.randint(0, 8000, (256, 128))
    labels = torch.randint(0, 2, (256,))
    loader = DataLoader(TensorDataset(tokens, labels), batch_size=8, shuffle=True)
    model = Classifier()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
    model, optimizer, loader, scheduler = accelerator.prepare(
        model, optimizer, loader, scheduler
    )
    for batch, classes in loader:
        with accelerator.accumulate(model):
            loss = nn.functional.cross_entropy(model(batch), classes)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            accelerator.print("loss", loss.item())


if __name__ == "__main__":
    main()
