"""One plan, many tricks: each alone, and one after another in the best order."""
