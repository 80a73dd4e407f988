"""A model looked at twice from Python, and the two runs side by side: `python examples/python_api.py [DIR_OR_HUB_ID]`.

Without a model the embedded organism is trained, in some minutes on two cores, and audited. docs/python.md.
"""

import sys
from collections.abc import Mapping
from typing import Any

import latent_audit


def look_twice(model: str, folder: str, **options: Any) -> latent_audit.Card:
    """Run lvs under two seeds in folders below `folder` and compare them; options: as of latent_audit.lvs."""
    config: Mapping[str, Any] = options.pop("config", {})
    cards = [
        latent_audit.lvs(model, config={**config, "seed": seed}, workdir=f"{folder}/seed{seed}", **options)
        for seed in (0, 1)
    ]
    for card in cards:
        card.show()
    both = latent_audit.compare(*cards, workdir=f"{folder}/compared")
    both.show()
    return both


if __name__ == "__main__":
    look_twice(sys.argv[1] if len(sys.argv) > 1 else "", "runs/python_api", limit=8)
