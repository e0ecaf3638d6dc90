"""torchtitan's TOML: versions 0.1 and 0.2, and those before with other places of keys.

Sources: torchtitan 0.2.2, `config/job_config.py` and `distributed/`; its TOML files of
0.0.2, 0.1.0 and 0.2.2. Later versions are configured in Python.
"""

from collections.abc import Mapping
from math import prod
from typing import Any

from memplan.inputs.configs import harmless
from memplan.inputs.configs.format import Document, Keys, Reading, Source, at, wrong
from memplan.inputs.configs.section import Section, decide
from memplan.inputs.configs.torchtitan_keys import (
    DEGREES,
    OPTIMIZERS,
    PLACES,
    PRESETS,
    keys_of,
)
from memplan.plan import TrainingPlan

TABLES = frozenset(
    (
        "activation_checkpoint",
        "compile",
        "experimental",
        "fault_tolerance",
        "model",
        "optimizer",
        "parallelism",
        "training",
        "validation",
    )
)
"""Those in which keys can move memory."""
OF_RINGS = frozenset(("context_parallel_rotate_method",))
OF_EXPERTS = frozenset(
    ("expert_parallel_comm_backend", "expert_tensor_parallel_degree")
)
MOVES_MEMORY = {
    "enable_async_tensor_parallel": "its buffers are not counted",
    "enable_compiled_autograd": "a compiled backward is counted as autograd's",
    "disable_loss_parallel": "logits are counted as divided",
}
"""Keys of parallelism that no field says; what is counted instead."""
MODEL_PARALLEL = ("tensor", "pipeline", "context")
CONVERTED = "layers that are converted are counted as they were"
REDUCED_IN_FP32 = (
    "float32, in which gradients are reduced; the formula reduces them in bf16"
)


class Torchtitan:
    """A job of torchtitan."""

    name = "torchtitan"
    title = "torchtitan job config"
    suffix = ".toml"

    def knows(self, document: Document) -> bool:
        tables = {key for key, value in document.items() if isinstance(value, Mapping)}
        if "training" not in tables:
            return False
        return bool(tables & {"model", "parallelism", "activation_checkpoint", "job"})

    def read(self, source: Source) -> Reading:
        return _Job(source.document).read()

    def keys_of(self, plan: TrainingPlan, document: Mapping[str, Any]) -> Keys:
        return keys_of(plan, document)


class _Job:
    """A document that is read, table by table."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.whole = Section(document)
        self.tables = {name: self.whole.section(name) for name in sorted(TABLES)}
        self.reading = Reading()
        self.degrees: dict[str, int] = {}
        """By the fields of a plan."""
        self.shard = 0
        """Ranks that weights are sharded over; 0 is left to the launcher."""
        self.replicate = 1

    def read(self) -> Reading:
        self._read_model()
        for name, field in DEGREES.items():
            table = self._place(name)
            degree = table.count(name)
            self.degrees[field] = degree or 1
            decide(self.reading, table.key(name), field, degree, 1)
        self._read_data_parallel()
        self._read_resharding()
        self._read_batch()
        self._read_precision()
        self._read_optimizer()
        self._read_checkpointing()
        self._read_compiling()
        self._list_what_is_left()
        return self.reading

    @property
    def is_sharded(self) -> bool:
        """FSDP shards over the ranks of context parallelism, too."""
        return self.shard != 1 or self.degrees["context_parallel"] > 1

    def _place(self, name: str) -> Section:
        """The table that a key of parallelism stands in."""
        for table in PLACES:
            if at(self.document, table, name) is not None:
                return self.tables[table]
        return self.tables["parallelism"]

    def _read_model(self) -> None:
        model = self.tables["model"]
        name, flavor = model.text("name") or "llama3", model.text("flavor")
        preset = PRESETS.get((name, flavor or ""))
        if preset:
            self.reading.say("model.flavor", model=preset)
        else:
            what = f"{name} {flavor or 'debugmodel'} is no preset of memplan"
            self.reading.miss("model.flavor", what)
            self.reading.open_fields.add("model")
        if model.value("converters"):
            self.reading.miss("model.converters", CONVERTED)

    def _read_data_parallel(self) -> None:
        name = "data_parallel_shard_degree"
        table = self._place(name)
        shard = table.count(name, least=-1)
        if shard == 0:
            raise wrong(table.key(name), 0, "be -1 or at least 1")
        copies = self._place("data_parallel_replicate_degree")
        self.replicate = copies.count("data_parallel_replicate_degree") or 1
        if shard is None or shard == -1:
            self.reading.open_fields.add("num_gpus")
        else:
            self.shard = shard
            # What is replicated besides does not change what a rank holds.
            data = self.replicate if shard == 1 else shard
            model = (self.degrees[f"{kind}_parallel"] for kind in MODEL_PARALLEL)
            self.reading.say(table.key(name), num_gpus=data * prod(model))
        if self.replicate > 1 and shard != 1:
            what = f"counted is one of {self.replicate} groups that shard"
            key = copies.key("data_parallel_replicate_degree")
            self.reading.miss(key, what)

    def _read_resharding(self) -> None:
        """Stage 3 reshards after the forward pass, stage 2 does not."""
        reading, place = self.reading, self._place("data_parallel_shard_degree")
        key = place.key("data_parallel_shard_degree")
        name = "fsdp_reshard_after_forward"
        where = self._place(name)
        policy = where.choice(name, "default", "always", "never")
        is_piped = self.degrees["pipeline_parallel"] > 1
        keeps = policy == "never" or (policy in (None, "default") and is_piped)
        if not self.is_sharded:
            reading.say(key, zero_stage=0)
        else:
            reading.suppose(sharding="fsdp2")
            stage = 2 if keeps else 3
            reading.say(where.key(name) if policy else key, zero_stage=stage)
        training = self.tables["training"]
        offloads = training.flag("enable_cpu_offload")
        key = training.key("enable_cpu_offload")
        if offloads and (keeps or not self.is_sharded):
            reading.miss(key, "offload without resharding is counted on the GPU")
            offloads = False
        decide(reading, key, "offload_parameters", offloads, False)
        decide(reading, key, "offload_optimizer", offloads, False)
        if self.degrees["context_parallel"] > 1:
            what = "weights are sharded over its ranks too; here they are not"
            reading.miss("parallelism.context_parallel_degree", what)

    def _read_batch(self) -> None:
        reading, training = self.reading, self.tables["training"]
        name = "local_batch_size"
        if training.value("batch_size") is not None:  # before 0.2
            name = "batch_size"
        batch, steps = self._micro_batches(training.count(name) or 8)
        reading.say(training.key(name), per_device_train_batch_size=batch)
        total = training.count("global_batch_size", least=-1) or -1
        ranks = batch * steps * self.shard * self.replicate
        key = training.key("global_batch_size")
        if total > 0 and not ranks:
            what = "how often gradients accumulate depends on the number of GPUs"
            reading.miss(key, what)
            reading.open_fields.add("gradient_accumulation_steps")
        elif total > 0 and total % ranks:
            raise wrong(key, total, f"be a multiple of {ranks}")
        else:
            steps *= total // ranks if total > 0 else 1
            reading.say(training.key(name), gradient_accumulation_steps=steps)
        seq_len, norm = training.count("seq_len"), training.number("max_norm")
        decide(reading, training.key("seq_len"), "seq_len", seq_len, 2048)
        decide(reading, training.key("max_norm"), "max_grad_norm", norm, 1.0)

    def _micro_batches(self, local: int) -> tuple[int, int]:
        """A pipeline divides the batch: their size, and how many there are."""
        if self.degrees["pipeline_parallel"] == 1:
            return local, 1
        table, name = self.tables["parallelism"], "pipeline_parallel_microbatch_size"
        size = table.count(name) or 1
        if local % size:
            raise wrong(table.key(name), size, f"divide the batch of {local}")
        return size, local // size

    def _read_precision(self) -> None:
        """Autocast runs on one GPU and in DDP; sharding has dtypes of its own."""
        reading, training = self.reading, self.tables["training"]
        stored = training.choice("dtype", "float32", "bfloat16")
        mixed = training.choice("mixed_precision_param", "float32", "bfloat16")
        tensor, pipeline = (
            self.degrees["tensor_parallel"],
            self.degrees["pipeline_parallel"],
        )
        if tensor > 1:
            # Its plans for tensor parallelism divide the sequence, too.
            reading.say("parallelism.tensor_parallel_degree", sequence_parallel=True)
        key = "training.mixed_precision_param"
        if stored == "bfloat16":
            reading.say("training.dtype", precision="bf16-pure")
        elif mixed == "float32" or (not self.is_sharded and tensor * pipeline > 1):
            reading.say(key, precision="fp32")
        else:
            value = "bf16-mixed"
            decide(reading, key, "precision", mixed and value, value)
            if self.is_sharded:
                reading.miss("training.mixed_precision_reduce", REDUCED_IN_FP32)

    def _read_optimizer(self) -> None:
        reading, optimizer = self.reading, self.tables["optimizer"]
        name = optimizer.text("name") or "AdamW"
        way = optimizer.choice("implementation", "for-loop", "foreach", "fused")
        is_fused = optimizer.flag("fused")  # before 0.1
        if way is None:
            way = "foreach" if is_fused is False else "fused"
        found = OPTIMIZERS.get((name, way))
        if found:
            reading.say("optimizer.name", optim=found)
        else:
            reading.miss("optimizer.name", f"{name} has no formula")
            reading.open_fields.add("optim")
        if optimizer.flag("early_step_in_backward"):
            what = "gradients that go as they come are counted all at once"
            reading.miss("optimizer.early_step_in_backward", what)

    def _read_checkpointing(self) -> None:
        section = self.tables["activation_checkpoint"]
        modes = ("none", "selective", "full", "memory_budget")
        mode = section.choice("mode", *modes)
        option = str(section.value("selective_ac_option") or 2)
        key = section.key("mode")
        if mode == "memory_budget":
            self.reading.miss(key, "what the compiler keeps is not known")
            self.reading.open_fields.add("activation_checkpointing")
            return
        if mode in (None, "selective") and option != "op":
            if not option.isdecimal() or int(option) < 1 or len(option) > 9:
                option_key = section.key("selective_ac_option")
                raise wrong(option_key, option, "be op, or every how many layers")
            value = "full" if int(option) == 1 else f"every-{int(option)}"
        else:
            value = mode or "selective"
        decide(self.reading, key, "activation_checkpointing", mode and value, value)

    def _read_compiling(self) -> None:
        compiling, training = self.tables["compile"], self.tables["training"]
        flag, before = compiling.flag("enable"), training.flag("compile")
        parts = compiling.texts("components")
        if flag and parts is not None and "model" not in parts:
            flag = False
            self.reading.miss(compiling.key("components"), "the model is not compiled")
        is_new = flag is not None
        key = compiling.key("enable") if is_new else training.key("compile")
        decide(self.reading, key, "torch_compile", flag if is_new else before, False)

    def _list_what_is_left(self) -> None:
        known = harmless.TORCHTITAN | harmless.TORCHTITAN_CHECKPOINTS
        if self.degrees["pipeline_parallel"] == 1:
            known |= harmless.TORCHTITAN_PIPELINES
        else:
            schedule = self.tables["parallelism"].text("pipeline_parallel_schedule")
            if schedule not in (None, "1F1B"):
                key = "parallelism.pipeline_parallel_schedule"
                self.reading.miss(key, f"{schedule} is counted as 1F1B")
        if self.degrees["context_parallel"] == 1:
            known |= OF_RINGS
        if self.degrees["expert_parallel"] == 1:
            known |= OF_EXPERTS
        for name, what in MOVES_MEMORY.items():
            if self.tables["parallelism"].value(name):
                self.reading.miss(f"parallelism.{name}", what)
        for name, table in self.tables.items():
            if name in ("fault_tolerance", "validation"):
                if table.value("enable") or table.value("enabled"):
                    self.reading.miss(f"{name}.enable", "not counted")
                continue
            for key in table.left(known):
                self.reading.miss(key)
        if at(self.document, "float8", "enable_float8_linear"):  # before 0.1
            self.reading.miss("float8.enable_float8_linear", CONVERTED)
        for key in self.whole.left(harmless.TORCHTITAN_TABLES):
            self.reading.miss(key)


TORCHTITAN = Torchtitan()
