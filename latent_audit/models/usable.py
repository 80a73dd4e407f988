"""Whether what a model wrote can be read at all."""

import numpy as np

from latent_audit.errors import InputError


def check_usable(usable: np.ndarray, who: str) -> None:
    """InputError for a model that gives no numbers, or all tokens the same: nothing it answers says anything of it.

    usable: bool [B], of generate.
    """
    bad = int((~usable).sum())
    if bad:
        raise InputError(
            f"{who} scores all tokens alike, or as NaN or infinity, after {bad} of {len(usable)} prompts: its "
            "weights are damaged or too large for the dtype; fetch them again, or set the dtype to float32"
        )
