"""Callbacks for other people's trainers: what was predicted, and what it came to.

    transformers.py  for its Trainer
    lightning.py     for Lightning's
    session.py       what both do

They are imported by their full names, since each needs its own library.
"""
