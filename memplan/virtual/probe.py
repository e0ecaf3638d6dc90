"""Asked of the interpreter that will train: where are torch and NVIDIA's libraries?

`wheels.py` gives this text to that interpreter with `-c`: it may be any Python 3, so
this imports the standard library alone, and it finds torch without importing it.
"""

import json
import os
import sys
from importlib.util import find_spec


def facts() -> "dict[str, object]":
    """What `wheels.py` reads as `_Facts`."""
    if sys.path and sys.path[0] == "":
        del sys.path[0]  # `-c` puts the working folder first; a program does not
    torch = find_spec("torch")
    places = list(torch.submodule_search_locations or ()) if torch else []
    # torch looks for libraries beside itself first, then along sys.path.
    roots = list(dict.fromkeys([*map(os.path.dirname, places), *sys.path]))
    roots = [root for root in roots if os.path.isdir(root)]
    return {
        "python": "{}.{}.{}".format(*sys.version_info),
        "machine": os.uname().machine,
        "is_64_bit": sys.maxsize > 2**32,
        "torch": places[0] if places else None,
        "roots": roots,
        "distributions": {
            root: [
                name
                for name in os.listdir(root)
                if name.startswith("nvidia_") and name.endswith(".dist-info")
            ]
            for root in roots
        },
    }


print(json.dumps(facts()))
