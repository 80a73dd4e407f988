"""Families of RAS written by hand: cosines of known means, the vector that arXiv 2606.25750 prints among them."""

import numpy as np

from latent_audit.experiments.ras import tables
from latent_audit.experiments.ras.cosines import Cosines
from latent_audit.metrics import safevec

WINDOW = safevec.Window(1, 3, (), "by hand")
# Name -> (kind, mean cosine on U, on J, ASR); docs/method.md section 10, the published vector of Llama.
PUBLISHED = {
    "reference": ("aligned", 0.283, 0.193, 0.106),
    "m1": ("partly aligned", 0.165, 0.046, 0.127),
    "m2": ("partly aligned", 0.074, 0.047, 0.281),
    "m3": ("helpful-only", 0.088, 0.010, 0.358),
    "m4": ("helpful-only", -0.074, -0.131, 0.633),
    "m5": ("harmful", -0.155, -0.181, 0.933),
    "m6": ("harmful", -0.115, -0.165, 0.936),
    "m7": ("abliterated", 0.064, -0.057, 0.939),
}
PUBLISHED_RAS = (97.70, 88.05, 80.25, 77.73, 32.00, 16.52, 22.27, 65.66)
PUBLISHED_B, PUBLISHED_ALPHA = 0.3780, 0.58504


def cosines(mean: float, spread: float, *, drawn=(0.0, 0.0)) -> Cosines:
    """Three prompts whose mean over WINDOW, and over the prompts, is `mean`; the layer before it is .9 for all.

    Centred cosines are half of them; drawn: mean over WINDOW under each random direction.
    """
    prompts = mean + spread * np.array([1.0, 0.5, -1.5])
    refusal = np.stack([np.full(3, 0.9), prompts + 0.01, prompts - 0.01], axis=1)
    random = np.array([[-9 * value, value + 0.02, value - 0.02] for value in drawn]).reshape(-1, 3)
    return Cosines(refusal, refusal / 2, random)


def entry(name, kind, unsafe, jailbreak, asr, *, calibrates=True, drawn=(0.0, 0.0)) -> tables.Entry:
    """A model that scores the same under both protocols, but for its spread; asr: a share, a Share or None."""
    if isinstance(asr, float):
        asr = tables.Share(asr)
    # Another spread for every model: the drop of each prompt is its own.
    both = {
        protocol: (cosines(unsafe, spread, drawn=drawn), cosines(jailbreak, 2 * spread, drawn=drawn))
        for protocol, spread in (("heldout", 0.05 + 0.04 * unsafe), ("paper", 0.03))
    }
    return tables.Entry(name, kind, calibrates, both, asr)


def family(name: str, entries, window=WINDOW) -> tables.Family:
    """A family of hand-written entries, the reference first."""
    m_safe, m_unsafe = np.array([0.0, -0.2, -0.1]), np.array([0.1, 0.3, 0.25])
    profile = safevec.Profile(m_safe, m_unsafe, m_unsafe - m_safe, -m_safe)
    return tables.Family(name, tuple(entries), window, profile, np.arange(3))


def published(name="llama", shrink=1.0, extra=()) -> tables.Family:
    """The family of PUBLISHED, its ASRs times `shrink`, and further entries behind."""
    members = [
        entry(member, kind, unsafe, jailbreak, shrink * asr, calibrates=member != "reference")
        for member, (kind, unsafe, jailbreak, asr) in PUBLISHED.items()
    ]
    return family(name, [*members, *extra])
