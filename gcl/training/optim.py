"""AdamW with groups, and a learning rate that is a pure function of the step."""

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from gcl.errors import UserError


@dataclass
class OptimSettings:
    """AdamW, linear warm-up, cosine to `min_lr_share`."""

    lr: float = 1e-5  # peak learning rate
    warmup_steps: int = 100  # steps from 0 to the peak
    min_lr_share: float = 0.0  # of the peak, at the last step
    weight_decay: float = 0.01  # of matrices and kernels; biases, norms, scale and bias have none
    beta1: float = 0.9  # decay of the first moment
    beta2: float = 0.98  # decay of the second moment
    eps: float = 1e-6  # added to the root of the second moment
    lr_multipliers: dict[str, float] = field(default_factory=dict)  # parameter name prefix -> factor on lr; 0 freezes

    def lr_at(self, step: int, max_steps: int) -> float:
        """The learning rate of the step that follows `step` finished ones."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, max_steps - self.warmup_steps)
        share = self.min_lr_share + (1 - self.min_lr_share) * 0.5 * (1 + math.cos(math.pi * progress))
        return self.lr * share


def build_optimizer(network: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """AdamW over the network's parameters, grouped by learning rate factor and weight decay; frozen ones are left out.

    Raises:
        UserError: a prefix in `lr_multipliers` that no parameter has, or nothing left to train.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    names = [name for name, _ in network.named_parameters()]
    for prefix in settings.lr_multipliers:
        if not any(name.startswith(prefix) for name in names):
            known = sorted({".".join(name.split(".")[:2]) for name in names})
            raise UserError(
                f"optim.lr_multipliers names {prefix!r}, which no parameter starts with; there are {', '.join(known)}"
            )
    for name, parameter in network.named_parameters():
        factor = factor_of(name, settings.lr_multipliers) if parameter.requires_grad else 0.0
        parameter.requires_grad_(factor > 0)
        if factor > 0:
            decay = settings.weight_decay if decays(name, parameter) else 0.0
            groups.setdefault((factor, decay), []).append(parameter)
    if not groups:
        raise UserError("optim.lr_multipliers freezes every parameter; leave at least one to train")
    return torch.optim.AdamW(
        [
            {"params": members, "lr_factor": factor, "weight_decay": decay}
            for (factor, decay), members in groups.items()
        ],
        lr=settings.lr,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
    )


def factor_of(name: str, multipliers: dict[str, float]) -> float:
    """The factor of the longest prefix that fits, or 1."""
    fitting = [prefix for prefix in multipliers if name.startswith(prefix)]
    return multipliers[max(fitting, key=len)] if fitting else 1.0


def decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and not name.endswith("bias")


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group its factor of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
