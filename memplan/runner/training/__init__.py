"""The program that trains for a plan: `python -m memplan.runner.training PLAN.json`.

An ordinary training program on transformers, accelerate, peft and bitsandbytes, that
takes a few steps on made-up data. It runs on a real card as on the virtual one and does
not know which; who started it watches it from outside.
"""
