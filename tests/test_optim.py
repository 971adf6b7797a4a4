"""The learning rate is a pure function of the step, and every parameter is in the group it belongs to or frozen."""

import math
from collections.abc import Iterator

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from gcl.errors import UserError
from gcl.training.logit_scale import cap_logit_scale
from gcl.training.optim import OptimSettings, build_optimizer, set_lr


def network() -> nn.Module:
    towers = nn.ModuleDict({name: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for name in ("visual", "text")})
    towers.register_parameter("logit_scale", nn.Parameter(torch.ones(1)))
    towers.register_parameter("logit_bias", nn.Parameter(torch.zeros(1)))
    return towers


def group_of(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> dict:
    return next(group for group in optimizer.param_groups if any(member is parameter for member in group["params"]))


def test_the_learning_rate_warms_up_in_a_line_that_ends_at_the_peak() -> None:
    optim = OptimSettings(lr=2.0, warmup_steps=4)
    assert [optim.lr_at(step, 100) for step in range(5)] == [0.5, 1.0, 1.5, 2.0, 2.0]


@pytest.mark.parametrize("min_lr_share", [0.0, 0.1])
def test_the_learning_rate_falls_in_torch_s_cosine_to_its_share(min_lr_share: float) -> None:
    optim = OptimSettings(lr=1.0, warmup_steps=10, min_lr_share=min_lr_share)
    reference = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(reference, T_max=90, eta_min=min_lr_share)
    for step in range(10, 101):
        assert optim.lr_at(step, 100) == pytest.approx(reference.param_groups[0]["lr"], abs=1e-9)
        reference.step()
        cosine.step()
    assert optim.lr_at(55, 100) == pytest.approx((1 + min_lr_share) / 2)
    assert optim.lr_at(100, 100) == pytest.approx(min_lr_share, abs=1e-12)


def test_every_step_of_a_run_learns_whatever_the_warm_up() -> None:
    for warmup_steps, max_steps in ((0, 1), (0, 10), (1, 1), (5, 5), (100, 3), (9, 10)):
        rates = [OptimSettings(lr=1.0, warmup_steps=warmup_steps).lr_at(step, max_steps) for step in range(max_steps)]
        assert min(rates) > 0 and max(rates) <= 1.0, (warmup_steps, max_steps)


def test_only_matrices_decay() -> None:
    model = network()
    optimizer = build_optimizer(model, OptimSettings(weight_decay=0.3))
    decays = {name: group_of(optimizer, parameter)["weight_decay"] for name, parameter in model.named_parameters()}
    assert {name for name, decay in decays.items() if decay == 0.3} == {"visual.0.weight", "text.0.weight"}
    assert {decay for decay in decays.values()} == {0.0, 0.3}


def test_the_longest_prefix_decides_a_parameter_s_learning_rate() -> None:
    model = network()
    optimizer = build_optimizer(model, OptimSettings(lr_multipliers={"visual": 0.5, "visual.1": 2.0}))
    set_lr(optimizer, 0.1)
    rates = {name: group_of(optimizer, parameter)["lr"] for name, parameter in model.named_parameters()}
    assert rates["visual.0.weight"] == rates["visual.0.bias"] == pytest.approx(0.05)
    assert rates["visual.1.weight"] == pytest.approx(0.2)
    assert rates["text.0.weight"] == rates["logit_scale"] == pytest.approx(0.1)


def test_a_multiplier_of_zero_freezes_and_everything_else_is_trained_once() -> None:
    model = network()
    optimizer = build_optimizer(model, OptimSettings(lr_multipliers={"visual": 0}))
    trained = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    free = [parameter for name, parameter in model.named_parameters() if not name.startswith("visual")]
    assert sorted(trained) == sorted(map(id, free))
    assert {name: p.requires_grad for name, p in model.named_parameters()} == {
        name: not name.startswith("visual") for name, _ in model.named_parameters()
    }


def test_the_moments_and_epsilon_are_the_settings_own() -> None:
    group = build_optimizer(network(), OptimSettings(beta1=0.8, beta2=0.7, eps=1e-3)).param_groups[0]
    assert (group["betas"], group["eps"]) == ((0.8, 0.7), 1e-3)


def test_a_prefix_that_no_parameter_has_is_refused_naming_those_there_are() -> None:
    with pytest.raises(UserError, match=r"'vision'.* there are .*logit_scale.*text\.0.*visual\.0"):
        build_optimizer(network(), OptimSettings(lr_multipliers={"vision": 0.1}))


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(UserError, match="freezes every parameter"):
        build_optimizer(network(), OptimSettings(lr_multipliers={"": 0}))


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    """Of this process alone, and no trace of it afterwards."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize(("scale", "capped"), [(5.0, math.log(100)), (3.0, 3.0)])
def test_only_a_logit_scale_above_the_ceiling_is_changed(scale: float, capped: float, accelerator: Accelerator) -> None:
    model = network()
    for parameter in model.parameters():
        nn.init.constant_(parameter, scale)
    cap_logit_scale(accelerator, model, 100.0)
    expected = {name: capped if name == "logit_scale" else scale for name, _ in model.named_parameters()}
    found = {name: float(parameter.detach().max()) for name, parameter in model.named_parameters()}
    assert found == pytest.approx(expected, rel=1e-6)
