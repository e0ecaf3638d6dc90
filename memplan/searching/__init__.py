"""Looking for plans that fit: candidates, prices, ranks, and the worst batch."""
