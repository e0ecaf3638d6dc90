"""The plans that are worth measuring on a card, and how they are measured in turn."""
