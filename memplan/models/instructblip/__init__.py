"""InstructBLIP: a BLIP-2 whose Q-Former reads the instruction, and is quantized."""

from dataclasses import replace

from memplan.models import blip2

FAMILY = replace(blip2.FAMILY, name="instructblip", never_quantized=("lm_head", "wo"))
