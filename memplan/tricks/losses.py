"""Logits that are never all there at once."""

from memplan.tricks.trick import Trick, sets

TRICKS = (
    Trick(
        name="loss-chunks",
        title="the loss in 8 parts",
        technique="loss",
        exactness="rounding",
        cost="Head and loss run twice, over an eighth of the tokens at a time.",
        source="torchtune/modules/loss, CEWithChunkedOutputLoss; Hsu et al., arXiv "
        "2410.10989; Wijmans et al., arXiv 2411.09009",
        changes=sets(cross_entropy_chunks=8),
    ),
)
