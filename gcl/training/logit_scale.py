"""The ceiling of the logit scale, kept after every step."""

import math

from accelerate import Accelerator
from torch import nn

from gcl import deepspeed


def cap_logit_scale(accelerator: Accelerator, model: nn.Module, ceiling: float) -> None:
    """Keep the trained logit scale, the factor itself, at or below a ceiling (all ranks participate)."""
    for name, parameter in model.named_parameters():
        if name.endswith("logit_scale") and parameter.requires_grad:
            if deepspeed.is_used(accelerator):
                deepspeed.clamp(parameter, math.log(ceiling))
            else:
                parameter.data.clamp_(max=math.log(ceiling))
