"""The examples of docs/record.md run as they are written, on a virtual card."""

import re
import textwrap
from pathlib import Path

import pytest

from memplan.captures.capture_file import read_capture

PAGE = Path(__file__).parents[1] / "docs" / "record.md"
EXAMPLE = re.compile(r"(?:^    .*\n|^\n)+", re.M)

AROUND = """
    import os, torch
    from lightning.pytorch import LightningModule
    from transformers import GPT2Config, GPT2LMHeadModel, TrainingArguments

    os.chdir({folder!r})
    ids = torch.randint(0, 500, (40, 32))
    dataset = [{{"input_ids": row, "labels": row}} for row in ids]
    batches = torch.utils.data.DataLoader(dataset, batch_size=8)
    config = GPT2Config(
        n_layer=2, n_embd=64, n_head=2, vocab_size=503, n_positions=64,
        bos_token_id=0, eos_token_id=0,
    )
    model = GPT2LMHeadModel(config)
    arguments = TrainingArguments(
        output_dir="out", max_steps=5, report_to=[], disable_tqdm=True,
        save_strategy="no",
    )

    class Module(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = GPT2LMHeadModel(config).train()
        def training_step(self, batch, index):
            return self.model(**batch).loss
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    module = Module()
"""
LOOP = """
    model.cuda()
    optimizer = torch.optim.AdamW(model.parameters())
    batches = [{name: rows.cuda() for name, rows in batch.items()} for batch in batches]
"""


def examples():
    """Indented blocks of the page that are Python."""
    blocks = map(textwrap.dedent, EXAMPLE.findall(PAGE.read_text(encoding="utf-8")))
    return [block.strip() for block in blocks if "import" in block]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "before", "file"),
    [(0, LOOP, "run.mplan"), (1, "", "trainer.mplan"), (2, "", "lightning.mplan")],
)
def test_an_example_runs_and_writes_its_capture(
    on_card, tmp_path, number, before, file
):
    pytest.importorskip("transformers")
    pytest.importorskip("lightning")
    around = textwrap.dedent(AROUND).format(folder=str(tmp_path))
    on_card(around, before, examples()[number], "say(None)")
    report = read_capture(tmp_path / file).report
    assert report.source == "rehearsed"
    assert report.peak.step == 3


def test_the_page_has_three_examples():
    assert len(examples()) == 3
