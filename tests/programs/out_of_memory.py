"""Fits in the forward and the backward pass, not with the optimizer's states."""

import argparse

import torch
from torch import nn


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=28, help="1 GiB of weights each")
    args = parser.parse_args()

    with torch.device("cuda"):
        layers = (nn.Linear(16384, 16384, bias=False) for _ in range(args.layers))
        model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step in range(6):
        inputs = torch.randn(64, 16384, device="cuda")
        loss = model(inputs).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print("step", step, "loss", loss.item(), flush=True)


if __name__ == "__main__":
    main()
