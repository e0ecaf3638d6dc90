"""What predictions of speed rest on, a line each."""

from collections.abc import Iterable

from memplan.searching.calibration import EFFICIENCY, Efficiency
from memplan.searching.candidates import Cluster
from memplan.searching.links import Links


def efficiency_lines(efficiencies: Iterable[Efficiency]) -> list[str]:
    """What is assumed of all cards without a record, and a line for each other."""
    lines, assumed = [], []
    for known in efficiencies:
        if not known.num_records:
            assumed.append(known.gpu)
            continue
        records = f"{known.num_records} measured record{'s' * (known.num_records != 1)}"
        lines.append(
            f"{known.gpu} and its links reach {known.fraction:.0%} of their "
            f"datasheets, the median of {records}"
        )
    if assumed:
        lines.append(
            f"cards and links reach {EFFICIENCY:.0%} of their datasheets: no measured "
            f"record of {', '.join(assumed)}"
        )
    return lines


def link_lines(clusters: Iterable[Cluster], links: Links) -> list[str]:
    """A line for each link, and who exchanges over it."""
    users: dict[str, list[str]] = {}
    for cluster in clusters:
        if cluster.num_gpus > 1:
            name = links.of(cluster.gpu, cluster.num_gpus).name
            users.setdefault(name, []).append(cluster.gpu.slug)
    return [
        f"{name}: {', '.join(dict.fromkeys(slugs))}" for name, slugs in users.items()
    ]
