"""train.py in another way: tests/train_otherwise.py sgd|float64 key=value ...

sgd: one rate for all weights, so that a step shows the gradient and what Adam hides, a wrong factor in it.
float64: weights, pixels and all that is trained with; evaluations stay in float32.
"""

import sys

import torch
from torch import Tensor, nn

import train
from gcl.cli import run_command
from gcl.models.dual_encoder import DualEncoder, Embeddings
from gcl.training.optim import OptimSettings, build_optimizer

forward, pixels = DualEncoder.forward, DualEncoder._pixels


def build_sgd(network: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    return torch.optim.SGD(build_optimizer(network, settings).param_groups, lr=settings.lr)


def build_adamw_in_float64(network: nn.Module, settings: OptimSettings) -> torch.optim.Optimizer:
    return build_optimizer(network.double(), settings)


def forward_in_float64(encoder: DualEncoder, images: dict[str, Tensor], texts: dict[str, Tensor]) -> Embeddings:
    fields, *others = embeddings = forward(encoder, images, texts)
    if encoder.training:
        return embeddings
    return Embeddings({name: field.float() for name, field in fields.items()}, *(other.float() for other in others))


if __name__ == "__main__":
    variant, *arguments = sys.argv[1:]
    if variant == "sgd":
        train.build_optimizer = build_sgd
    else:
        train.build_optimizer = build_adamw_in_float64
        DualEncoder.forward = forward_in_float64
        DualEncoder._pixels = lambda encoder, image: pixels(encoder, image).double()
    run_command(lambda: train.main(arguments))
