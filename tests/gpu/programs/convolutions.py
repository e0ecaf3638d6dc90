"""A small residual network in channels-last bf16: workspaces of cuDNN."""

import torch
from torch import nn

BATCH, SIZE = 16, 64


class Block(nn.Module):
    def __init__(self, inside, outside, stride):
        super().__init__()
        self.first = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outside)
        self.second = nn.Conv2d(outside, outside, 3, padding=1, groups=8, bias=False)
        self.skip = nn.Conv2d(inside, outside, 1, stride, bias=False)

    def forward(self, x):
        return nn.functional.relu(
            self.skip(x) + self.second(nn.functional.relu(self.norm(self.first(x))))
        )


def main():
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3),
            Block(64, 64, 1),
            Block(64, 128, 2),
            Block(128, 256, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(256, 100),
        ).to(memory_format=torch.channels_last)
        inputs = torch.randn(BATCH, 3, SIZE, SIZE)
        labels = torch.randint(100, (BATCH,))
    inputs = inputs.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    for _ in range(3):
        with torch.autocast("cuda", torch.bfloat16):
            loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
