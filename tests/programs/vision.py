"""Classify pictures: torchvision's ResNet in channels-last, or timm's ViT."""

import argparse

import torch
from torch import nn


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", choices=("resnet50", "vit"), default="resnet50")
    parser.add_argument("--batch-size", type=int, default=16)
    args = parser.parse_args()

    if args.model == "resnet50":
        from torchvision.models import resnet50

        model, layout = resnet50(), torch.channels_last
    else:
        import timm

        model, layout = timm.create_model("vit_small_patch16_224"), None
    model = model.cuda()
    if layout:
        model = model.to(memory_format=layout)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)
    scaler = torch.amp.GradScaler()
    for step in range(10):
        images = torch.randn(args.batch_size, 3, 224, 224).cuda(non_blocking=True)
        if layout:
            images = images.to(memory_format=layout)
        labels = torch.randint(0, 1000, (args.batch_size,)).cuda()
        with torch.autocast("cuda", torch.float16):
            loss = nn.functional.cross_entropy(
                model(images), labels, label_smoothing=0.1
            )
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        print("step", step, "loss", loss.item(), flush=True)


if __name__ == "__main__":
    main()
