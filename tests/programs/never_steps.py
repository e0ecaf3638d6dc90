"""A forgotten optimizer: gradients are made, and nothing is ever updated."""

import torch
from torch import nn


def main():
    model = nn.Sequential(nn.Linear(512, 2048), nn.ReLU(), nn.Linear(2048, 512)).cuda()
    for batch in torch.randn(6, 64, 512):
        inputs = batch.cuda()
        loss = nn.functional.mse_loss(model(inputs), inputs)
        loss.backward()
        print("loss", loss.item(), flush=True)


if __name__ == "__main__":
    main()
