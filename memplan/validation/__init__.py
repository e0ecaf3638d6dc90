"""Predictions held against runs: records, the grid, and the errors of both."""
