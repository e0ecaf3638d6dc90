"""What saves memory: one small entry a trick, and which of them suit a plan."""
