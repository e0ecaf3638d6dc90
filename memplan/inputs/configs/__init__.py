"""A user's configuration files in, fields of a plan out, and back.

    documents.py  YAML, TOML and JSON as plain data
    format.py     what is known of a format
    reading.py    files in, fields of a plan out: which format it is, what wins
    writing.py    a plan as a file, and a change of a plan as a change of a file

and a module for each format. A new one is a module, and a line in `reading.FORMATS`.
"""
