"""What it would change if the virtual card were described otherwise than it is.

    python benchmarks/card_assumptions.py [--gpu rtx-4090] [--only PART-OF-A-NAME]

Convolutional networks and a transformer layer train two steps on a card whose L2,
clocks or number of SMs are others; each time the sizes of all allocations are held
against those on the card as it is. Prints JSON: how many there are, how many differ,
and by how many bytes at most; and the peak of requested bytes.
"""

import argparse
import json
import os
import subprocess
import sys
from collections import Counter

from memplan.hardware import find_gpu
from memplan.virtual import virtual_environment

PROGRAM = """
import json, os, sys, torch, torchvision

name = sys.argv[1]
torch.cuda.memory._record_memory_history("all", context=None, max_entries=10**7)
if name == "transformer layer":
    model = torch.nn.TransformerEncoderLayer(1024, 16, 4096, batch_first=True)
    batch = torch.randn(8, 512, 1024)
else:
    model = torchvision.models.get_model(name)
    batch = torch.randn(16, 3, 224, 224)
model, batch = model.cuda(), batch.cuda()
optimizer = torch.optim.AdamW(model.parameters())
for _ in range(2):
    model(batch).float().square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
trace = torch.cuda.memory._snapshot()["device_traces"][0]
sizes = [event["size"] for event in trace if event["action"] == "alloc"]
peak = torch.cuda.memory_stats()["requested_bytes.all.peak"]
print(json.dumps({"sizes": sizes, "peak": peak}), flush=True)
os._exit(0)  # the engine's threads may outlive the interpreter and abort its end
"""
NETWORKS = (
    "resnet50",
    "vgg16",
    "efficientnet_b0",
    "densenet121",
    "mobilenet_v3_large",
    "transformer layer",
)
CHANGES = {
    "a third of the L2": ("l2_bytes", 1 / 3),
    "60% of the clock": ("clock_khz", 0.6),
    "half the memory clock": ("memory_clock_khz", 0.5),
    "a third of the SMs": ("num_sms", 1 / 3),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", default="rtx-4090")
    parser.add_argument("--only", default="", help="Networks with this in their name.")
    asked = parser.parse_args()
    environment = virtual_environment(
        sys.executable, find_gpu(asked.gpu), context_bytes=0
    ).variables
    networks = [name for name in NETWORKS if asked.only in name]
    as_it_is = {name: trained(name, environment) for name in networks}
    told = {
        change: {
            name: held_against(as_it_is[name], trained(name, other(environment, *how)))
            for name in networks
        }
        for change, how in CHANGES.items()
    }
    print(json.dumps({"gpu": asked.gpu, "changes": told}, indent=1))


def other(environment: dict[str, str], key: str, factor: float) -> dict[str, str]:
    """The environment of a card with one value multiplied."""
    fields = dict(one.split("=") for one in environment["MEMPLAN_DEVICE"].split(";"))
    fields[key] = str(int(int(fields[key]) * factor))
    text = ";".join(f"{name}={value}" for name, value in fields.items())
    return {**environment, "MEMPLAN_DEVICE": text}


def trained(name: str, environment: dict[str, str]) -> dict[str, object]:
    """Allocations of one network, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def held_against(before: dict, after: dict) -> dict[str, int]:
    """What one has and the other has not; the largest of it."""
    there, here = Counter(before["sizes"]), Counter(after["sizes"])
    apart = list(((there - here) + (here - there)).elements())
    return {
        "allocations": len(before["sizes"]),
        "only_in_one": len(apart),
        "largest_of_these_bytes": max(apart, default=0),
        "peak_requested_bytes_before": before["peak"],
        "peak_requested_bytes_after": after["peak"],
    }


if __name__ == "__main__":
    main()
