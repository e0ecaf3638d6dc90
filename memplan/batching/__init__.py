"""The batches that a dataset makes: sizes of samples, rules, shapes, and chances."""
