"""Hugging Face's Trainer: sentences of unequal length, evaluation every other step."""

import argparse
import random
import tempfile

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    DataCollatorForLanguageModeling,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
)

WORDS = ("the", "a", "quick", "lazy", "fox", "dog", "jumps", "over", "and", "then")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--fp16", action="store_true", help="with a gradient scaler")
    parser.add_argument("--optim", default="adamw_torch_fused")
    parser.add_argument("--max-steps", type=int, default=6)
    args = parser.parse_args()

    tokenizer = word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=args.max_steps,
            per_device_train_batch_size=8,
            per_device_eval_batch_size=16,
            eval_strategy="steps",
            eval_steps=2,
            fp16=args.fp16,
            bf16=not args.fp16,
            optim=args.optim,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
        )
        trainer = Trainer(
            LlamaForCausalLM(config),
            arguments,
            train_dataset=sentences(tokenizer, 64),
            eval_dataset=sentences(tokenizer, 32),
            data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        )
        trainer.train()


def word_tokenizer():
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<eos>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"
    )


def sentences(tokenizer, number):
    """Between 20 and 120 words each: every batch is padded to its longest."""
    draw = random.Random(0)
    return [
        tokenizer(" ".join(draw.choices(WORDS, k=draw.randint(20, 120))))
        for _ in range(number)
    ]


if __name__ == "__main__":
    main()
