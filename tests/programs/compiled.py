"""The training step of a model that torch.compile has compiled."""

import torch
from torch import nn


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


def main():
    model = nn.Sequential(*(FeedForward(512) for _ in range(4))).cuda()
    model = torch.compile(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    for step in range(10):
        inputs = torch.randn(32, 256, 512, device="cuda")
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.mse_loss(model(inputs), inputs)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print("step", step, "loss", loss.item(), flush=True)


if __name__ == "__main__":
    main()
