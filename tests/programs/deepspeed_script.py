"""DeepSpeed ZeRO in bf16: the stage and the offload are chosen on the command line."""

import argparse

import deepspeed
import torch
from torch import nn


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", type=int, default=2, choices=(1, 2, 3))
    parser.add_argument("--offload", action="store_true", help="states to the host")
    parser.add_argument("--local_rank", type=int, default=0)
    args = parser.parse_args()

    deepspeed.init_distributed()
    layers = [layer for _ in range(8) for layer in (nn.Linear(1024, 1024), nn.ReLU())]
    model = nn.Sequential(*layers)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    zero = {"stage": args.stage, "reduce_bucket_size": 5_000_000}
    if args.offload:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    engine, optimizer, _, _ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        config={
            "train_micro_batch_size_per_gpu": 16,
            "gradient_accumulation_steps": 2,
            "gradient_clipping": 1.0,
            "bf16": {"enabled": True},
            "zero_optimization": zero,
            # torch's AdamW on the host: DeepSpeed's own has to be compiled first.
            "zero_force_ds_cpu_optimizer": False,
        },
    )
    for step in range(20):
        inputs = torch.randn(16, 1024, device=engine.device, dtype=torch.bfloat16)
        loss = nn.functional.mse_loss(engine(inputs), inputs)
        engine.backward(loss)
        engine.step()
        if engine.global_rank == 0:
            print("micro step", step, "loss", loss.item(), flush=True)


if __name__ == "__main__":
    main()
