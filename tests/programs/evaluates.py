"""Training with an evaluation after every step, on batches eight times as large."""

import torch
from torch import nn


def main():
    model = nn.Sequential(
        nn.Linear(1024, 4096), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4096, 1024)
    ).cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for step in range(6):
        model.train()
        inputs = torch.randn(256, 1024, device="cuda")
        loss = nn.functional.mse_loss(model(inputs), inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print("step", step, "validation loss", evaluate(model), flush=True)


@torch.no_grad()
def evaluate(model):
    model.eval()
    losses = []
    for _ in range(4):
        inputs = torch.randn(2048, 1024, device="cuda")
        losses.append(nn.functional.mse_loss(model(inputs), inputs))
    return torch.stack(losses).mean().item()


if __name__ == "__main__":
    main()
