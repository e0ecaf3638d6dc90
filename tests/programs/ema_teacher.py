"""A student learns from a teacher that is the moving average of the student."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def main():
    student = nn.Sequential(
        nn.Linear(768, 3072), nn.GELU(), nn.Linear(3072, 768), nn.Linear(768, 4096)
    ).cuda()
    teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.996))
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    for step in range(10):
        view, other_view = torch.randn(2, 128, 768, device="cuda")
        with torch.no_grad():
            target = teacher(other_view).softmax(-1)
        loss = nn.functional.cross_entropy(student(view), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        teacher.update_parameters(student)
        print("step", step, "loss", loss.item(), flush=True)


if __name__ == "__main__":
    main()
