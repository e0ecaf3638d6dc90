"""Records and pictures of datasets on disk, and what is wrong with the bad ones."""

from memplan.data.images import open_picture
from memplan.data.records import Policy, Record, Usable, read_json_lines

__all__ = ["Policy", "Record", "Usable", "open_picture", "read_json_lines"]
