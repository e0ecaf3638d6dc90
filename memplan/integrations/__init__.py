"""Inside other people's programs.

    transformers.py  a callback for its Trainer: what was predicted, what it came to
    lightning.py     the same for Lightning's
    session.py       what both do
    pytest.py        a plugin: a test may take so much memory of a card

They are imported by their full names, since each needs its own library.
"""
