"""Hugging Face's Trainer on a file of lengths, in its own order; the model is a folder.

python uneven_lengths.py MODEL lengths.jsonl BATCH_SIZE
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoConfig, LlamaForCausalLM, Trainer, TrainingArguments


def main():
    folder, lengths, batch_size = sys.argv[1:]
    rows = Path(lengths).read_text().splitlines()
    samples = [{"input_ids": [7] * json.loads(row)["length"]} for row in rows]
    with tempfile.TemporaryDirectory() as output:
        arguments = TrainingArguments(
            output,
            num_train_epochs=1,
            per_device_train_batch_size=int(batch_size),
            bf16=True,
            optim="adamw_torch",
            save_strategy="no",
            report_to=[],
            remove_unused_columns=False,
        )
        model = LlamaForCausalLM(AutoConfig.from_pretrained(folder))
        Trainer(model, arguments, train_dataset=samples, data_collator=padded).train()


def padded(samples):
    """Each as long as the longest."""
    rows = [torch.tensor(sample["input_ids"]) for sample in samples]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return {"input_ids": ids, "labels": ids}


if __name__ == "__main__":
    main()
