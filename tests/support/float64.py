"""transformers' answers in float64: what float32 is measured against where a model magnifies rounding."""

import copy

import torch
from torch.overrides import TorchFunctionMode

from tests.support import tiny


class _WithoutFloat32(TorchFunctionMode):
    """Every cast to float32 within goes to float64: norms, softmax, rotary tables and the delta rule cast to it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            return args[0].double()
        wide = [torch.float64 if one is torch.float32 else one for one in args]
        named = {name: torch.float64 if one is torch.float32 else one for name, one in (kwargs or {}).items()}
        return function(*wide, **named)


def reference(model, tokens) -> tiny.Reference:
    """tiny.reference computed in float64 throughout."""
    wide = copy.deepcopy(model).double()
    # Their grouped product of experts takes no float64.
    wide.config._experts_implementation = "eager"
    with _WithoutFloat32():
        return tiny.reference(wide, tokens)
