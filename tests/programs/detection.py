"""A detector of torchvision: which boxes and how many decides what it allocates."""

import argparse

import torch
from torchvision.models import detection

DETECTORS = {
    "fasterrcnn": detection.fasterrcnn_resnet50_fpn,
    "maskrcnn": detection.maskrcnn_resnet50_fpn,
}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=DETECTORS, default="fasterrcnn")
    args = parser.parse_args()

    model = DETECTORS[args.model](weights=None, weights_backbone=None, num_classes=21)
    model.cuda().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.005, momentum=0.9)
    for step in range(10):
        images = [torch.rand(3, 480, 640, device="cuda") for _ in range(2)]
        losses = model(images, [target() for _ in images])
        loss = sum(losses.values())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        print("step", step, "loss", loss.item(), flush=True)


def target():
    """Two boxes in one picture, each with its class and its mask."""
    boxes = torch.tensor([[20.0, 30.0, 200.0, 180.0], [300.0, 100.0, 500.0, 400.0]])
    masks = torch.zeros(2, 480, 640, dtype=torch.uint8)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int(), strict=True):
        mask[top:bottom, left:right] = 1
    labelled = {"boxes": boxes, "labels": torch.tensor([1, 7]), "masks": masks}
    return {name: tensor.cuda() for name, tensor in labelled.items()}


if __name__ == "__main__":
    main()
