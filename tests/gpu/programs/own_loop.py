"""A user's own loop that records itself, and transformers' Trainer with the callback.

Prints one line of JSON: what each of them reported.
"""

import json
import sys
import tempfile

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

import memplan
from memplan.integrations.transformers import MemplanCallback


def model():
    sizes = {"n_layer": 4, "n_embd": 256, "n_head": 4, "vocab_size": 5003}
    return GPT2LMHeadModel(GPT2Config(**sizes, n_positions=128))


def loop():
    net = model().cuda()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-4)
    tokens = torch.randint(5003, (8, 128), device="cuda")
    with memplan.record() as run:
        for _ in range(8):
            net(input_ids=tokens, labels=tokens).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            run.step(samples=8, tokens=8 * 128)
    return run.report


def trainer():
    ids = torch.randint(5003, (64, 128))
    rows = [{"input_ids": row, "labels": row} for row in ids]
    callback = MemplanCallback()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=6,
            per_device_train_batch_size=8,
            report_to=[],
            disable_tqdm=True,
            save_strategy="no",
        )
        Trainer(model(), arguments, train_dataset=rows, callbacks=[callback]).train()
    return callback.run.report


def main():
    reports = {"loop": loop(), "trainer": trainer()}
    texts = {name: memplan.to_json(report) for name, report in reports.items()}
    print(json.dumps(texts), file=sys.stdout)


if __name__ == "__main__":
    main()
