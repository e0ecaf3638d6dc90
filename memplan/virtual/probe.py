"""Asked of the interpreter that will train: where are torch and NVIDIA's libraries?

`wheels.py` gives this text to that interpreter with `-c`: it may be any Python, so this
imports the standard library alone, and it finds torch without importing it.
"""

import json
import os
import sys
from importlib.util import find_spec


def facts() -> dict[str, object]:
    """What `wheels.py` reads."""
    if sys.path and sys.path[0] == "":
        del sys.path[0]  # `-c` puts the working folder first; a program does not
    torch = find_spec("torch")
    # Not from `origin` alone: the folder of a package without __init__ has none.
    places = list(torch.submodule_search_locations or ()) if torch else []
    # torch looks beside itself first, then along sys.path.
    roots = list(dict.fromkeys([*map(os.path.dirname, places), *sys.path]))
    roots = [root for root in roots if os.path.isdir(root)]
    return {
        "python": "{}.{}.{}".format(*sys.version_info),
        "platform": sys.platform,
        "machine": os.uname().machine if hasattr(os, "uname") else "",
        "is_64_bit": sys.maxsize > 2**32,
        "torch": places[0] if places else None,
        "roots": [
            root for root in roots if os.path.isdir(os.path.join(root, "nvidia"))
        ],
        "distributions": sorted(
            name
            for root in roots
            for name in os.listdir(root)
            if name.startswith("nvidia_") and name.endswith(".dist-info")
        ),
        "triton": [
            root for root in roots if os.path.isdir(os.path.join(root, "triton"))
        ],
    }


print(json.dumps(facts()))
