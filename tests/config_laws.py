"""Laws of all formats of configurations, for their tests."""

import copy
from dataclasses import fields
from pathlib import Path

from hypothesis import settings

from memplan.errors import ConfigError, MemplanError, PlanError
from memplan.inputs.configs.documents import load, parse
from memplan.inputs.configs.editing import dumped
from memplan.inputs.configs.format import Source
from memplan.inputs.configs.reading import source_of
from memplan.plan import TrainingPlan

patient = settings(deadline=None)
"""The first example reads the presets; a busy machine takes its time."""
DATA = Path(__file__).parent / "data" / "configs"
"""Files as projects ship them, written out by hand, old versions among them."""
WRONG = (
    *(None, True, False, -1, 0, 1, 3, 0.5, 2**70, float("inf"), float("nan")),
    *("", "x", "auto", "1e-5", "${other}", "\x00", "none", "a.b.c", ","),
    *([], [1], ["x"], [[]], [None], {}, {"x": 1}, {"_component_": 1}, {"stage": []}),
)
"""Values that stand where they should not."""


def source(document, file="config"):
    """A document as if it were in a file, which names files that are not there."""

    def named(name):
        raise ConfigError(f"There is no {name}.", hint="")

    return Source(file=Path(file), document=document, named=named)


def files(folder):
    """The real files of a project."""
    found = sorted(path for path in (DATA / folder).iterdir() if path.is_file())
    assert len(found) >= 4
    return found


def plan_with(said, **others):
    """The plan of what a document says, and of what it does not."""
    return TrainingPlan(**({"model": "gpt2"} | others | said))


def comes_back(kind, plan, *, said, document=None):
    """What is written of a plan is read as the same plan, and says those fields."""
    text = dumped(kind.keys_of(plan, document or {}), kind.suffix)
    new = parse(text, kind.suffix)
    assert kind.knows(new), text
    reading = kind.read(source(new))
    found = {name: getattr(plan, name) for name in reading.fields}
    assert reading.fields == found, text
    assert set(said) <= reading.fields.keys()
    return reading


def stays(kind, file):
    """A real file says the same when it is told what it says already."""
    opened = source_of(file)
    reading = kind.read(opened)
    plan = plan_with(reading.fields, **room(reading.fields))
    keys = kind.keys_of(plan, opened.document)
    again = kind.read(
        Source(file=file, document=merged(opened.document, keys), named=opened.named)
    )
    assert again.fields == reading.fields
    return plan


def changes(kind, file, **change):
    """A change of a plan is a change of a few keys, and nothing else is said."""
    opened = source_of(file)
    before = kind.read(opened).fields
    old = plan_with(before, **room(before))
    new = plan_with(before | change, **room(before | change))
    was, keys = (kind.keys_of(plan, opened.document) for plan in (old, new))
    gone = was.keys() - keys.keys()
    different = _new(was, keys)
    assert different or gone
    document = merged(opened.document, different, gone)
    after = kind.read(Source(file=file, document=document, named=opened.named)).fields
    defaults = {f.name: f.default for f in fields(TrainingPlan)}
    assert defaults | after == defaults | before | change
    return different, gone


def leaves(kind, file, **change):
    """What a format has no word for changes no key that is there."""
    opened = source_of(file)
    before = kind.read(opened).fields
    plans = (plan_with(said, **room(said)) for said in (before, before | change))
    first, second = (kind.keys_of(plan, opened.document) for plan in plans)
    assert merged(
        opened.document, _new(first, second), first.keys() - second.keys()
    ) == (opened.document)


def _new(first, second):
    return {k: v for k, v in second.items() if k not in first or first[k] != v}


def room(said):
    """So many GPUs as parallelism needs, where a document leaves it open."""
    groups = 1
    for name in ("tensor_parallel", "pipeline_parallel", "context_parallel"):
        groups *= said.get(name, 1)
    return {"num_gpus": groups * max(said.get("expert_parallel", 1), 2)}


def merged(document, keys, gone=()):
    """A document with those keys set and those others taken out."""
    new = copy.deepcopy(document)
    for path, value in keys.items():
        table = new
        for name in path[:-1]:
            if table.get(name) is None:
                table[name] = {}
            table = table[name]
        table[path[-1]] = value
    for path in gone:
        table = new
        for name in path[:-1]:
            table = table.get(name) or {}
        table.pop(path[-1], None)
    return new


def survives(kind, document):
    """A document is read, or answered with an error of one sentence."""
    kind.knows(document)
    try:
        reading = kind.read(source(document))
    except (ConfigError, PlanError) as error:
        assert error.message
        assert "\n" not in error.message
        return
    try:
        plan = plan_with(reading.fields, **room(reading.fields))
    except MemplanError:
        return
    kind.keys_of(plan, document)


def broken(file):
    """A real document with a wrong value in the place of every key, one at a time."""
    document = load(file)
    for path in _paths(document):
        for value in WRONG:
            new = copy.deepcopy(document)
            table = new
            for name in path[:-1]:
                table = table[name]
            table[path[-1]] = value
            yield new


def _paths(value, *path):
    if isinstance(value, dict):
        for name, item in value.items():
            yield (*path, name)
            yield from _paths(item, *path, name)
