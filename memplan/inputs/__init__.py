"""Foreign configuration in, `TrainingPlan` out.

    live.py       a model that is about to be trained
    optimizer.py  an optimizer that was made
    batch.py      the first batch
    trainer.py    transformers' TrainingArguments
    lightning.py  Lightning's Trainer
    configs/      files that runs are configured in

What is not understood and can move memory is listed, never dropped in silence; where no
plan can say what runs there is an error, of one sentence.
"""

from memplan.inputs.live import Found

__all__ = ["Found"]
