"""Loads data in worker processes that live as long as the program."""

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset


class Pictures(Dataset):
    def __len__(self):
        return 256

    def __getitem__(self, index):
        return torch.rand(3, 64, 64), index % 10


def main():
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    ).cuda()
    optimizer = torch.optim.Adam(model.parameters())
    loader = DataLoader(
        Pictures(),
        batch_size=16,
        num_workers=2,
        pin_memory=True,
        persistent_workers=True,
        prefetch_factor=4,
    )
    for epoch in range(2):
        for images, labels in loader:
            images = images.cuda(non_blocking=True)
            loss = nn.functional.cross_entropy(model(images), labels.cuda())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        print("epoch", epoch, "loss", loss.item(), flush=True)


if __name__ == "__main__":
    main()
