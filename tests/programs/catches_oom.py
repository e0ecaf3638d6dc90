"""Halves the batch until it fits, with accelerate's find_executable_batch_size."""

import torch
from accelerate import Accelerator
from accelerate.utils import find_executable_batch_size
from torch import nn


def main():
    accelerator = Accelerator()

    @find_executable_batch_size(starting_batch_size=256)
    def train(batch_size):
        accelerator.free_memory()
        print("trying batch size", batch_size, flush=True)
        # 128 MiB of activations for each sample of a batch.
        model = nn.Sequential(nn.Linear(64, 64), *(nn.Sigmoid() for _ in range(7)))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model, optimizer = accelerator.prepare(model, optimizer)
        for step in range(6):
            inputs = torch.empty(batch_size, 64 << 10, 64, device=accelerator.device)
            loss = model(inputs).mean()
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            print("step", step, "loss", loss.item(), flush=True)

    train()


if __name__ == "__main__":
    main()
