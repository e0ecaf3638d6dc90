"""Looking for plans that fit: candidates, what they need, throughput and prices."""
