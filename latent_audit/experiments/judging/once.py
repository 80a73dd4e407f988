"""Equal answers are judged once, also where they come from different units of a run.

A push that is too weak leaves the clean answer as it was, in every state and under every budget. Not for rewards, whose
last digit depends on what stands in the same batch: a unit computed after a resume would differ from one that was not.
"""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

# About 20 MB: a paper's whole table has 15 thousand answers.
MOST = 100_000


def once(ask: Callable[[Sequence[str], Sequence[str]], np.ndarray], *, most: int = MOST) -> Callable:
    """ask(prompts, responses) -> [N] that puts each pair once per process, whichever call it comes in.

    What was said to the last `most` pairs is kept, by hash. It is for judges that say the same of equal pairs: by their
    own weights, greedily. Nothing is kept of a call that raises.
    """
    said: dict[bytes, np.generic] = {}

    def asked(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        keys = [_key(*pair) for pair in zip(prompts, responses, strict=True)]
        first = {key: place for place, key in reversed(list(enumerate(keys))) if key not in said}
        places = sorted(first.values())
        fresh = ask([prompts[place] for place in places], [responses[place] for place in places])
        # Beside what is kept: a call may hold more pairs than that.
        known = dict(zip((keys[place] for place in places), fresh, strict=True))
        found = np.array([known[key] if key in known else said[key] for key in keys], fresh.dtype)
        said.update(known)
        for key in list(said)[: max(0, len(said) - most)]:
            del said[key]
        return found

    return asked


def _key(prompt: str, response: str) -> bytes:
    digest = hashlib.blake2b(f"{len(prompt)} {prompt}{response}".encode("utf-8", "surrogatepass"), digest_size=16)
    return digest.digest()
