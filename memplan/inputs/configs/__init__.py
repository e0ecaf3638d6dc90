"""A user's configuration files in, fields of a plan out, and back.

    documents.py  YAML, TOML and JSON as plain data
    format.py     what is known of a format
    section.py    a table, whose keys are taken one by one
    reading.py    files in, fields of a plan out: which format it is, what wins
    writing.py    a plan as a file, and a change of a plan as a change of a file
    editing.py    keys of a text set where they stand

and a module for each format, its keys in another where they are many. What several
formats share is in `names`, `precision`, `sharding`, `losses`, `arguments` (of the
Trainer) and `harmless`. A new format is a module, and a line in `reading.FORMATS`.
"""
