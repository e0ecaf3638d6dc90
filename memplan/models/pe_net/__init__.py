"""PE-Net, a scene graph generator: frozen ResNeXt detector, trained relation head."""

from memplan.models.family import Family
from memplan.models.pe_net.config import PENetConfig, check
from memplan.models.pe_net.formula import batch_bytes, forward

FAMILY = Family(
    name="pe_net",
    config_class=PENetConfig,
    forward=forward,
    kv_bytes_per_token=lambda config, item_bytes: 0,
    inputs=("images",),
    max_seq_len=lambda config: None,
    default_image_size=lambda config: 800,
    check=check,
    batch_bytes=batch_bytes,
    unsupported=(
        "cuDNN's workspaces of 1 x 1 convolutions, and those its heuristics choose "
        "beyond copies of input, kernel and output in channels-last order",
        "choosing the detector's proposals (top-k, suppression): how many there are "
        "depends on the pictures",
    ),
)
