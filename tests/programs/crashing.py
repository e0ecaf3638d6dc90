"""A program with a mistake: the last batch is smaller than the labels kept for it."""

import torch
from torch import nn


def main():
    model = nn.Linear(256, 10).cuda()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    labels = torch.randint(0, 10, (32,), device="cuda")
    for batch in torch.randn(80, 256).split(32)[1:]:
        loss = nn.functional.cross_entropy(model(batch.cuda()), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
