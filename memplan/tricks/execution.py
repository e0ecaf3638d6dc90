"""The same step, carried out in another way: compiled, on the host, other segments."""

from memplan.estimating.changes import Fields
from memplan.plan import TrainingPlan
from memplan.tricks.trick import ALREADY, Trick, sets

EXPANDABLE = "expandable_segments:True"


def _expandable(plan: TrainingPlan) -> Fields | str:
    """Beside the settings that there are."""
    settings = plan.alloc_conf or ""
    if "expandable_segments" in settings:
        return ALREADY
    return {"alloc_conf": ",".join(filter(None, [settings, EXPANDABLE]))}


TRICKS = (
    Trick(
        name="offload-activations",
        title="activations to the host",
        technique="activation offload",
        exactness="exact",
        cost="What the forward pass saves goes over PCIe and back, into pinned memory.",
        source="torch/autograd/graph.py, save_on_cpu",
        changes=sets(offload_activations=True),
    ),
    Trick(
        name="torch-compile",
        title="torch.compile",
        technique="torch.compile",
        exactness="rounding",
        cost="The first steps take minutes to compile; kernels fused from several make "
        "fewer temporaries.",
        source="Ansel et al., PyTorch 2, ASPLOS 2024; torch/_inductor",
        changes=sets(torch_compile=True),
        suits_generation=True,
    ),
    Trick(
        name="expandable-segments",
        title="segments that grow",
        technique="allocator",
        exactness="exact",
        cost="None to speak of: segments are mapped piece by piece. It saves what is "
        "reserved and not allocated.",
        source="PyTorch documentation, CUDA semantics: PYTORCH_ALLOC_CONF",
        changes=_expandable,
        suits_generation=True,
    ),
)
