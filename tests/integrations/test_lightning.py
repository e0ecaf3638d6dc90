"""The callback in Lightning's own Trainer: on a virtual card, and without one."""

import csv

import pytest

from memplan.captures.capture_file import read_capture
from memplan.recording import NO_DEVICE

pytest.importorskip("lightning")
pytest.importorskip("transformers")

# Lightning asks torch for the older name of a leaf of a tree, and likes more workers.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.*treespec.*", "ignore:.*num_workers.*", "ignore:.*model summary.*"
)

MODULES = """
    import logging, torch
    from lightning.pytorch import LightningModule, Trainer
    from lightning.pytorch.loggers import CSVLogger
    from transformers import GPT2Config, GPT2LMHeadModel
    from memplan.integrations.lightning import MemplanCallback

    sentences = []
    class Keep(logging.Handler):
        def emit(self, record):
            sentences.append((record.levelname, record.getMessage()))
    logging.getLogger("memplan").addHandler(Keep())
    logging.getLogger("memplan").setLevel("INFO")

    class Language(LightningModule):
        def __init__(self):
            super().__init__()
            self.model = GPT2LMHeadModel(GPT2Config(
                n_layer=4, n_embd=256, n_head=4, vocab_size=5003, n_positions=256,
                bos_token_id=0, eos_token_id=0,
            )).train()
        def training_step(self, batch, index):
            loss = self.model(**batch).loss
            self.log("loss", loss)
            return loss
        def configure_optimizers(self):
            return torch.optim.AdamW(self.parameters())

    def batches(size=8, count=256):
        ids = torch.randint(0, 5000, (count, 128))
        rows = [{"input_ids": row, "labels": row} for row in ids]
        return torch.utils.data.DataLoader(rows, batch_size=size)

    def trainer(callback, **changes):
        common = dict(
            max_steps=5, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, logger=False, accelerator="gpu", devices=1,
        )
        return Trainer(**{**common, **changes}, callbacks=[callback])
"""


@pytest.mark.slow
def test_prediction_and_peak_reach_the_loggers(on_card, tmp_path):
    file = tmp_path / "run.mplan"
    said = on_card(
        MODULES,
        f"""
        callback = MemplanCallback(output={str(file)!r})
        run = trainer(
            callback, precision="bf16-mixed", accumulate_grad_batches=2,
            gradient_clip_val=1.0, log_every_n_steps=1,
            logger=CSVLogger({str(tmp_path)!r}, name="", version=""),
        )
        run.fit(Language(), batches())
        say(sentences)
        """,
    )
    with (tmp_path / "metrics.csv").open(newline="") as log:
        rows = [{k: v for k, v in row.items() if v} for row in csv.DictReader(log)]
    [before] = [r for r in rows if "memplan/estimated_peak_allocated_gib" in r]
    [entry] = [r for r in rows if "memplan/peak_allocated_gib" in r]
    assert (before["step"], entry["step"]) == ("0", "3")
    assert abs(float(entry["memplan/error_percent"])) < 5
    assert any("loss" in row for row in rows)
    assert [level for level, _ in said] == ["INFO"] * len(said)
    report = read_capture(file).report
    assert report.source == "rehearsed"
    phases = [phase.phase for phase in report.phases if phase.step == 3]
    assert phases.count("backward") == 2


@pytest.mark.slow
def test_gradients_that_outlive_a_step_are_predicted(on_card):
    said = on_card(
        MODULES,
        """
        callback = MemplanCallback()
        run = trainer(callback)
        run.fit(Language(), batches(size=2))
        say([sentences, callback.run.report.components.gradients])
        """,
    )
    sentences, gradients = said
    assert [level for level, _ in sentences] == ["INFO"] * len(sentences)
    assert "rehearsed peak" in sentences[-1][1]
    assert gradients > 0


@pytest.mark.slow
def test_an_exception_passes_and_leaves_a_capture(on_card, tmp_path):
    file = tmp_path / "run.mplan"
    said = on_card(
        MODULES,
        f"""
        class Fails(Language):
            def training_step(self, batch, index):
                if index == 2:
                    raise ValueError("of the program's own")
                return super().training_step(batch, index)

        run = trainer(MemplanCallback(output={str(file)!r}))
        try:
            run.fit(Fails(), batches())
        except ValueError as error:
            say(str(error))
        """,
    )
    assert said == "of the program's own"
    process = read_capture(file).processes[0]
    assert (process["ended"], len(process["steps"])) == ("crashed", 2)


@pytest.mark.slow
def test_a_module_of_one_s_own_is_recorded_without_a_prediction(on_card):
    said = on_card(
        MODULES,
        """
        class Own(LightningModule):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.Linear(999, 7)
            def training_step(self, batch, index):
                return self.layer(batch).square().mean()
            def configure_optimizers(self):
                return torch.optim.SGD(self.parameters(), lr=0.1)

        callback = MemplanCallback()
        rows = torch.utils.data.DataLoader(torch.randn(64, 999), batch_size=8)
        trainer(callback).fit(Own(), rows)
        say([sentences, callback.run.report.components.weights])
        """,
    )
    [(level, why), (_, peak)], weights = said
    assert level == "WARNING"
    assert why.startswith("memplan: no prediction. Own holds no model with a config")
    assert "rehearsed peak" in peak
    assert weights == 4 * (999 * 7 + 7)


def test_without_a_card_there_is_one_sentence(tmp_path, caplog):
    import torch
    from lightning.pytorch import LightningModule, Trainer

    from memplan.integrations.lightning import MemplanCallback

    class Own(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 1)

        def training_step(self, batch, index):
            return self.layer(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    callback = MemplanCallback()
    trainer = Trainer(
        max_steps=2,
        accelerator="cpu",
        callbacks=[callback],
        default_root_dir=tmp_path,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        trainer.fit(Own(), torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=4))
    assert [r.message for r in caplog.records if r.name == "memplan"] == [NO_DEVICE]
    assert callback.run.report is None
