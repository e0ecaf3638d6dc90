"""The callback in transformers' own Trainer: on a virtual card, and without one."""

import json

import pytest

from memplan.captures.capture_file import read_capture
from memplan.errors import CaptureFileError
from memplan.recording import NO_DEVICE

transformers = pytest.importorskip("transformers")

TRAINER = """
    import json, logging, sys, torch
    from transformers import (
        GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Trainer,
        TrainerCallback, TrainingArguments,
    )
    from memplan.integrations.transformers import MemplanCallback

    sentences = []
    class Keep(logging.Handler):
        def emit(self, record):
            sentences.append((record.levelname, record.getMessage()))
    logging.getLogger("memplan").addHandler(Keep())
    logging.getLogger("memplan").setLevel("INFO")

    class Reporter(TrainerCallback):
        '''Keeps scalars by step, as TensorBoard's does.'''
        def __init__(self):
            self.scalars = []
        def on_log(self, args, state, control, logs=None, **kwargs):
            if state.is_world_process_zero:
                for key, value in logs.items():
                    assert isinstance(value, (int, float)), key
                    self.scalars.append((key, value, state.global_step))

    def gpt2():
        return GPT2LMHeadModel(GPT2Config(
            n_layer=4, n_embd=256, n_head=4, vocab_size=5003, n_positions=256,
            bos_token_id=0, eos_token_id=0,
        ))

    def llama():
        return LlamaForCausalLM(LlamaConfig(
            hidden_size=256, intermediate_size=512, num_hidden_layers=4,
            num_attention_heads=4, vocab_size=5003,
        ))

    def data(length=128, size=256):
        ids = torch.randint(0, 5000, (size, length))
        return [{"input_ids": row, "labels": row} for row in ids]

    def trainer(model, callbacks, rows=None, **changes):
        common = dict(
            output_dir=sys.argv[0] + ".out", report_to=[], disable_tqdm=True,
            save_strategy="no", per_device_train_batch_size=8, max_steps=5,
            logging_steps=3,
        )
        return Trainer(
            model=model, args=TrainingArguments(**{**common, **changes}),
            train_dataset=rows or data(), callbacks=callbacks,
        )
"""


@pytest.mark.slow
def test_prediction_and_peak_reach_every_reporter(on_card, tmp_path):
    file = tmp_path / "run.mplan"
    said = on_card(
        TRAINER,
        f"""
        reporter, callback = Reporter(), MemplanCallback(output={str(file)!r})
        run = trainer(gpt2(), [reporter, callback], bf16=True)
        run.train()
        run.save_state()
        state = json.load(open(run.args.output_dir + "/trainer_state.json"))
        say([reporter.scalars, state["log_history"], sentences])
        """,
    )
    scalars, history, sentences = said
    steps = {key: step for key, _, step in scalars}
    assert steps["memplan/estimated_peak_allocated_gib"] == 0
    assert steps["memplan/peak_allocated_gib"] == 3
    [entry] = [e for e in history if "memplan/peak_allocated_gib" in e]
    [before] = [e for e in history if "memplan/estimated_peak_allocated_gib" in e]
    assert (before["step"], entry["step"]) == (0, 3)
    assert abs(entry["memplan/error_percent"]) < 5
    components = ("weights", "gradients", "optimizer_states", "activations")
    rest = ("temporary_buffers", "functionality_specific")
    total = sum(entry[f"memplan/{name}_gib"] for name in (*components, *rest))
    assert total == pytest.approx(entry["memplan/peak_allocated_gib"], abs=0.001)
    # The Trainer's own log of that step is still there.
    assert [e["step"] for e in history if "loss" in e] == [3]
    assert [level for level, _ in sentences] == ["INFO"] * len(sentences)
    assert "rehearsed peak" in sentences[-1][1]
    report = read_capture(file).report
    assert report.source == "rehearsed"
    peak = round(report.peak.allocated_bytes / 2**30, 4)
    assert peak == entry["memplan/peak_allocated_gib"]


@pytest.mark.slow
def test_predictions_hold_for_other_ways_to_train(on_card):
    pytest.importorskip("peft")
    said = on_card(
        TRAINER,
        """
        import gc
        from peft import LoraConfig, get_peft_model

        def lora():
            config = LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
            return get_peft_model(llama().to(torch.bfloat16), config)

        found = {}
        for name, make, changes in (
            ("accumulated", gpt2, {"gradient_accumulation_steps": 2}),
            ("checkpointed", llama, {"activation_checkpointing": True, "bf16": True}),
            ("adafactor", llama, {"optim": "adafactor", "max_grad_norm": 0.0}),
            ("lora", lora, {"bf16": True}),
            ("bf16", lambda: llama().bfloat16(), {"optim": "adamw_torch"}),
        ):
            run = trainer(make(), [MemplanCallback()], **changes)
            run.train()
            [entry] = [e for e in run.state.log_history if "memplan/error_percent" in e]
            found[name] = entry["memplan/error_percent"]
            del run
            gc.collect()
            torch.cuda.empty_cache()
        say(found)
        """,
    )
    assert len(said) == 5
    assert {name: error for name, error in said.items() if abs(error) > 5} == {}


@pytest.mark.slow
def test_what_cannot_be_predicted_is_recorded_all_the_same(on_card):
    said = on_card(
        TRAINER,
        """
        class Own(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.table = torch.nn.Embedding(5003, 64)
                self.head = torch.nn.Linear(64, 5003)
            def forward(self, input_ids=None, labels=None):
                logits = self.head(self.table(input_ids)).flatten(0, 1)
                loss = torch.nn.functional.cross_entropy(logits, labels.flatten())
                return {"loss": loss}

        model = Own()
        run = trainer(model, [MemplanCallback()])
        run.train()
        say([run.state.log_history, sentences])
        """,
    )
    history, sentences = said
    [(_, why), (_, peak)] = sentences
    assert why.startswith("memplan: no prediction. Own holds no model with a")
    assert "rehearsed peak" in peak
    keys = {key for entry in history for key in entry}
    assert "memplan/peak_allocated_gib" in keys
    assert "memplan/estimated_peak_allocated_gib" not in keys
    assert "memplan/error_percent" not in keys


@pytest.mark.slow
def test_a_training_that_fails_leaves_a_capture(on_card, tmp_path):
    """As `auto_find_batch_size` does, the batch is made smaller once; then it fails."""
    file = tmp_path / "run.mplan"
    said = on_card(
        TRAINER,
        f"""
        class Fails(GPT2LMHeadModel):
            calls = 0
            def forward(self, input_ids=None, labels=None, **kwargs):
                Fails.calls += 1
                if Fails.calls == 2:
                    torch.empty(2**40, device="cuda")
                if Fails.calls == 5:
                    raise ValueError("of the program's own")
                return super().forward(input_ids, labels=labels, **kwargs)

        model = Fails(gpt2().config)
        callback = MemplanCallback(output={str(file)!r})
        run = trainer(model, [callback], auto_find_batch_size=True)
        try:
            run.train()
        except ValueError as error:
            say(str(error))
        """,
    )
    assert said == "of the program's own"
    kept = read_capture(file)
    assert len(kept.processes[0]["steps"]) == 2


@pytest.mark.slow
def test_a_prediction_that_is_off_is_a_warning(on_card):
    said = on_card(
        TRAINER,
        """
        class Hoards(GPT2LMHeadModel):
            def forward(self, input_ids=None, labels=None, **kwargs):
                self.kept = torch.empty(2**28, device="cuda")
                return super().forward(input_ids, labels=labels, **kwargs)

        Hoards.__name__ = "GPT2LMHeadModel"
        run = trainer(Hoards(gpt2().config), [MemplanCallback()])
        run.train()
        say([text for level, text in sentences if level == "WARNING"])
        """,
    )
    [warning] = said
    assert "most of the difference in" in warning
    assert "%)" in warning


def test_without_a_card_there_is_one_sentence(tmp_path, caplog):
    from memplan.integrations.transformers import MemplanCallback

    config = transformers.GPT2Config(
        n_layer=1, n_embd=16, n_head=2, vocab_size=31, n_positions=8, bos_token_id=0
    )
    config.eos_token_id = 0
    import torch

    rows = [{"input_ids": ids, "labels": ids} for ids in torch.zeros(8, 4).long()]
    callback = MemplanCallback()
    trainer = transformers.Trainer(
        model=transformers.GPT2LMHeadModel(config),
        args=transformers.TrainingArguments(
            output_dir=str(tmp_path),
            use_cpu=True,
            report_to=[],
            max_steps=2,
            disable_tqdm=True,
            save_strategy="no",
            dataloader_pin_memory=False,
        ),
        train_dataset=rows,
        callbacks=[callback],
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: False)
        trainer.train()
    assert [r.message for r in caplog.records if r.name == "memplan"] == [NO_DEVICE]
    assert callback.run.report is None
    assert not any(
        "memplan" in json.dumps(entry) for entry in trainer.state.log_history
    )


def test_a_file_is_refused_before_the_training(tmp_path):
    from memplan.integrations.transformers import MemplanCallback

    with pytest.raises(CaptureFileError, match="not named as a capture"):
        MemplanCallback(output=tmp_path / "run.json")
