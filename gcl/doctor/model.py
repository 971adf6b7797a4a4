"""What a model asks of the data, known without its weights: tokenizer, context length, image size."""

from dataclasses import dataclass
from typing import Any

from torch.overrides import TorchFunctionMode

from gcl.doctor.tokens import LengthTokenizer
from gcl.models.dual_encoder import DualEncoder, ImageSettings
from gcl.parts import Settings, build

RANDOM = ("normal_", "uniform_", "trunc_normal_", "erfinv_")


@dataclass(frozen=True)
class Demands:
    """How a model's rows become its input."""

    name: str  # of the architecture
    tokenizer: LengthTokenizer | None
    image: ImageSettings


# Without a model: SigLIP's way of looking at an image, and no tokens.
NO_MODEL = Demands("", None, ImageSettings(224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic", "squash"))


class WithoutRandomWeights(TorchFunctionMode):
    """Leaves new weights as memory gave them: drawing those of a large model takes longer than all else here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in RANDOM and args:
            return args[0]
        return func(*args, **(kwargs or {}))


def demands_of(model: Settings | None) -> Demands:
    """The demands of a part that builds a model.

    Raises:
        UserError: an unknown architecture, or a tokenizer that cannot be had.
    """
    if model is None:
        return NO_MODEL
    with WithoutRandomWeights():
        encoder: DualEncoder = build({**model, "load_weights": False})
    return Demands(encoder.name, encoder.tokenizer, encoder.image)  # type: ignore[arg-type]
