"""torchtitan's TOML: versions 0.1 and 0.2, and those before with other places of keys.

Sources: torchtitan 0.2.2, `config/job_config.py` and `distributed/`; its TOML files of
0.0.2, 0.1.0 and 0.2.2. Later versions are configured in Python.
"""

from collections.abc import Mapping
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
        whole = Section(document)
        self.tables = {name: whole.section(name) for name in sorted(TABLES)}
        self.whole = whole
        self.reading = Reading()

    def read(self) -> Reading:
        self._read_model()
        degrees = {name: self._degree(name, field) for name, field in DEGREES.items()}
        shard = self._read_data_parallel(degrees)
        self._read_batch(shard, degrees)
        self._read_precision(shard, degrees)
        self._read_optimizer()
        self._read_checkpointing()
        self._read_compiling()
        self._list_what_is_left(degrees)
        return self.reading

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
            what = "layers that are converted are counted as they were"
            self.reading.miss("model.converters", what)

    def _place(self, name: str) -> Section:
        """The table that a key of parallelism stands in."""
        for table in PLACES:
            if at(self.document, table, name) is not None:
                return self.tables[table]
        return self.tables["parallelism"]

    def _degree(self, name: str, field: str) -> int:
        table = self._place(name)
        degree = table.count(name)
        decide(self.reading, table.key(name), field, degree, 1)
        return degree or 1

    def _read_data_parallel(self, degrees: Mapping[str, int]) -> int:
        """Ranks that weights are sharded over; 0 where the launcher decides it."""
        reading = self.reading
        shards, copies = (
            self._place(f"data_parallel_{kind}_degree")
            for kind in ("shard", "replicate")
        )
        name = "data_parallel_shard_degree"
        shard = shards.count(name, least=-1)
        if shard == 0:
            raise wrong(shards.key(name), 0, "be -1 or at least 1")
        replicate = copies.count("data_parallel_replicate_degree") or 1
        tensor, pipeline, context, _ = degrees.values()
        if shard is None or shard == -1:
            shard = 0
            reading.open_fields.add("num_gpus")
        else:
            # What is replicated besides does not change what a rank holds.
            data = replicate if shard == 1 else shard
            num_gpus = data * tensor * pipeline * context
            reading.say(shards.key(name), num_gpus=num_gpus)
        if replicate > 1 and shard != 1:
            what = f"counted is one of {replicate} groups that shard"
            reading.miss(copies.key("data_parallel_replicate_degree"), what)
        if shard == 1 and context == 1:
            reading.say(shards.key(name), zero_stage=0)
            self._offload(is_sharded=False)
            return shard
        where = self._place("fsdp_reshard_after_forward")
        policy = where.choice(
            "fsdp_reshard_after_forward", "default", "always", "never"
        )
        keeps = policy == "never" or (policy in (None, "default") and pipeline > 1)
        reading.suppose(sharding="fsdp2")
        key = where.key("fsdp_reshard_after_forward") if policy else shards.key(name)
        reading.say(key, zero_stage=2 if keeps else 3)
        self._offload(is_sharded=not keeps)
        if context > 1:
            what = "weights are sharded over its ranks too; here they are not"
            reading.miss("parallelism.context_parallel_degree", what)
        return shard

    def _offload(self, is_sharded: bool) -> None:
        training = self.tables["training"]
        offloads = training.flag("enable_cpu_offload")
        key = training.key("enable_cpu_offload")
        if offloads and not is_sharded:
            self.reading.miss(key, "offload without resharding is counted on the GPU")
            return
        for field in ("offload_parameters", "offload_optimizer"):
            decide(self.reading, key, field, offloads, False)

    def _read_batch(self, shard: int, degrees: Mapping[str, int]) -> None:
        reading, training = self.reading, self.tables["training"]
        name = "local_batch_size"
        if training.value("batch_size") is not None:
            name = "batch_size"
        local = training.count(name) or 8
        batch, steps = local, 1
        pipeline = self.tables["parallelism"]
        if degrees["pipeline_parallel_degree"] > 1:
            batch = pipeline.count("pipeline_parallel_microbatch_size") or 1
            if local % batch:
                key = "pipeline_parallel_microbatch_size"
                raise wrong(pipeline.key(key), batch, f"divide the batch of {local}")
            steps = local // batch
        total = training.count("global_batch_size", least=-1)
        if total is not None and total > 0:
            copies = self._place("data_parallel_replicate_degree")
            replicate = copies.count("data_parallel_replicate_degree") or 1
            ranks = local * shard * replicate
            if not shard:
                what = "how often gradients accumulate depends on the number of GPUs"
                reading.miss(training.key("global_batch_size"), what)
                reading.open_fields.add("gradient_accumulation_steps")
            elif total % ranks:
                expected = f"be a multiple of {ranks}"
                raise wrong(training.key("global_batch_size"), total, expected)
            else:
                steps *= total // ranks
        reading.say(training.key(name), per_device_train_batch_size=batch)
        if "gradient_accumulation_steps" not in reading.open_fields:
            reading.say(training.key(name), gradient_accumulation_steps=steps)
        seq_len, norm = training.count("seq_len"), training.number("max_norm")
        decide(reading, training.key("seq_len"), "seq_len", seq_len, 2048)
        decide(reading, training.key("max_norm"), "max_grad_norm", norm, 1.0)

    def _read_precision(self, shard: int, degrees: Mapping[str, int]) -> None:
        """Autocast runs on one GPU and in DDP; sharding has dtypes of its own."""
        reading, training = self.reading, self.tables["training"]
        stored = training.choice("dtype", "float32", "bfloat16")
        mixed = training.choice("mixed_precision_param", "float32", "bfloat16")
        tensor, pipeline, context, _ = degrees.values()
        is_sharded = shard != 1 or context > 1
        if tensor > 1:
            # Its plans for tensor parallelism divide the sequence, too.
            reading.say("parallelism.tensor_parallel_degree", sequence_parallel=True)
        if stored == "bfloat16":
            reading.say("training.dtype", precision="bf16-pure")
        elif mixed == "float32" or (not is_sharded and tensor * pipeline > 1):
            reading.say("training.mixed_precision_param", precision="fp32")
        else:
            value = "bf16-mixed"
            key = "training.mixed_precision_param"
            decide(reading, key, "precision", value if mixed else None, value)
            if is_sharded:
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

    def _list_what_is_left(self, degrees: Mapping[str, int]) -> None:
        known = harmless.TORCHTITAN | harmless.TORCHTITAN_CHECKPOINTS
        if degrees["pipeline_parallel_degree"] == 1:
            known |= harmless.TORCHTITAN_PIPELINES
        else:
            schedule = self.tables["parallelism"].text("pipeline_parallel_schedule")
            if schedule not in (None, "1F1B"):
                key = "parallelism.pipeline_parallel_schedule"
                self.reading.miss(key, f"{schedule} is counted as 1F1B")
        if degrees["context_parallel_degree"] == 1:
            known |= OF_RINGS
        if degrees["expert_parallel_degree"] == 1:
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
            what = "layers that are converted are counted as they were"
            self.reading.miss("float8.enable_float8_linear", what)
        for key in self.whole.left(harmless.TORCHTITAN_TABLES):
            self.reading.miss(key)


TORCHTITAN = Torchtitan()
