"""PyTorch's own encoder in fp32 with dropout, and SGD with momentum."""

import torch
from torch import nn

WIDTH, LENGTH, BATCH = 256, 197, 8


def main():
    torch.manual_seed(0)
    with torch.device("cuda"):
        layer = nn.TransformerEncoderLayer(
            WIDTH, nhead=4, dim_feedforward=1024, batch_first=True, norm_first=True
        )
        model = nn.Sequential(
            nn.TransformerEncoder(layer, num_layers=4, enable_nested_tensor=False),
            nn.Linear(WIDTH, 10),
        )
        inputs = torch.randn(BATCH, LENGTH, WIDTH)
        labels = torch.randint(10, (BATCH,))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(3):
        outputs = model(inputs)[:, 0]
        loss = nn.functional.cross_entropy(outputs, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()


if __name__ == "__main__":
    main()
