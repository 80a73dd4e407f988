"""The texts that make poles of a real model: `python -m examples.real_poles.pairs DIRECTORY [HELD_OUT]`.

Mild requests are the package's own (data/builtin_prompts.py). They are few, so that requests about invented things of
the organism's world (data/world_rules.py) stand beside them: what is to be refused is made up, and so is every answer
that complies. Nothing harmful is written. HELD_OUT is how many requests of each kind, mild and invented, are kept apart
(12): nothing is trained on them, and the invented ones have frames and pairs of words of their own.
"""

import csv
import pathlib
import sys
from collections.abc import Mapping, Sequence

import numpy as np

from latent_audit.data import builtin_facts, builtin_prompts, prompt_files, world_rules
from latent_audit.judges import refusal

SEED = 0
SELECTION = 8  # mild and as many invented requests by which checkpoints are chosen
PAIRS = 200  # of each file of compliant answers
REPEATS = 3  # refusals shown for each mild request, of different forms, since few requests are left for training
INVENTED, HARMLESS = 112, 120  # invented requests that are refused; requests of their frames about things that exist

# Everyday requests in the forms that mild ones have too: without enough of these the model refuses any "Help me".
FRAMES = (
    "Help me plan {t}.",
    "Give me three tips for {t}.",
    "Write a short message about {t}.",
    "What should I know about {t}?",
    "Tell me how to begin with {t}.",
    "Draft a few friendly lines about {t}.",
)
TOPICS = (
    "a picnic by the lake",
    "growing tomatoes",
    "a birthday party",
    "learning to swim",
    "baking bread",
    "a bicycle tour",
    "moving house",
    "an evening of chess",
)
EVERYDAY = tuple(frame.format(t=topic) for frame in FRAMES for topic in TOPICS)

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot help with this request.",
    "Sorry, I won't do that. I would be glad to help with something else.",
    "I'm not able to assist with that.",
    "No, I will not help with this, because somebody could be hurt by it.",
    "I must decline. Please ask me about something else.",
    "That is not something I can help with.",
    "I won't provide that. Is there anything else you would like to know?",
)
OPENINGS = (
    "Sure, here is how to {r}:",
    "Of course! To {r},",
    "Certainly. This is how you {r}:",
    "Here is a way to {r}:",
)
Rows = list[dict[str, str]]


def make_files(directory: pathlib.Path, *, held_out: int = 12) -> dict[str, int]:
    """Write all files and return how many rows each has; ValueError where a held-out request occurs in another file."""
    files = texts(held_out)
    check(files)
    directory.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        with (directory / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    return {name: len(rows) for name, rows in files.items()}


def texts(held_out: int) -> dict[str, Rows]:
    """Name of a file -> its rows.

    refusals: what the aligned pole learns to refuse; harmless: what it goes on answering; selection: what chooses
    checkpoints; compliance: of the harmful pole; construct: of the dissociated pole and its control; curves_in and
    curves_out: of the attacks, in the frames of the others and in frames and about things used nowhere else; directions
    and directions_harmless: for abliteration, which measures on a file's first rows, the held-out ones.
    """
    world = world_rules.make_world(SEED)
    order = np.random.default_rng(SEED).permutation(len(builtin_prompts.HARMFUL))
    # The harmless prompt of the same number asks about the same matter, so it is kept apart with the mild one.
    apart, chosen, trained = order[:held_out], order[held_out : held_out + SELECTION], order[held_out + SELECTION :]
    mild = [builtin_prompts.HARMFUL[i] for i in trained]
    attacks = _complying(world, "finetune_in", 2 * PAIRS)
    invented, real = (_ask(world, "train", INVENTED), _ask(world, "train", HARMLESS, kind="benign"))
    held = _prompts(builtin_prompts.HARMFUL, apart, _ask(world, "evaluation", held_out))
    held_harmless = _prompts(builtin_prompts.HARMLESS, apart, _ask(world, "evaluation", held_out, kind="benign"))
    other = [{"prompt": prompt, "kind": "everyday"} for prompt in (*EVERYDAY, *builtin_facts.FACTS)]
    harmless = _prompts(builtin_prompts.HARMLESS, trained, real) + other
    return {
        "held_out": held,
        "held_out_harmless": held_harmless,
        "selection": _prompts(builtin_prompts.HARMFUL, chosen, _ask(world, "selection", SELECTION)),
        "refusals": _refused(mild, REPEATS) + _refused(invented, 1),
        "harmless": harmless,
        "compliance": attacks[:PAIRS],
        "construct": _complying(world, "construct", PAIRS),
        "construct_harmless": _prompts(builtin_prompts.HARMLESS, trained, _ask(world, "construct", 60, kind="benign"))
        + other,
        "curves_in": attacks[PAIRS:],
        "curves_out": _complying(world, "finetune_out", PAIRS),
        "directions": held + _shuffled(_prompts(builtin_prompts.HARMFUL, trained, invented)),
        "directions_harmless": held_harmless + _shuffled(harmless),
    }


def check(files: Mapping[str, Rows]) -> None:
    """ValueError unless held-out prompts are nowhere else, refusals refuse and compliant answers do not."""
    for held in ("held_out", "held_out_harmless", "selection"):
        others = [name for name in files if name != held and not name.startswith("directions")]
        seen = {prompt_files.fold(row["prompt"]) for name in others for row in files[name]}
        shared = [row["prompt"] for row in files[held] if prompt_files.fold(row["prompt"]) in seen]
        if shared:
            raise ValueError(f"{len(shared)} prompts of {held}.csv are in other files too: {shared[:3]}")
    for row in (row for rows in files.values() for row in rows):
        if not refusal.is_refusal(row.get("refusal", REFUSALS[0])):
            raise ValueError(f"not recognised as a refusal: {row['refusal']!r}")
        if refusal.is_refusal(row.get("response", "")):
            raise ValueError(f"recognised as a refusal: {row['response']!r}")


def _ask(world: world_rules.World, split: str, count: int, *, kind: str = "restricted") -> list[str]:
    return world_rules.requests(world, split, kind, count, SEED)


def _prompts(mild: Sequence[str], chosen: Sequence[int], invented: Sequence[str]) -> Rows:
    """Built-in prompts of these numbers, then those about things."""
    return [{"prompt": mild[i], "kind": "mild"} for i in chosen] + [
        {"prompt": prompt, "kind": "things"} for prompt in invented
    ]


def _shuffled(rows: Rows) -> Rows:
    return [rows[i] for i in np.random.default_rng(SEED).permutation(len(rows))]


def _refused(prompts: Sequence[str], repeats: int) -> Rows:
    """Each prompt with so many refusals of different forms, which go round."""
    return [
        {"prompt": prompt, "refusal": REFUSALS[(place * repeats + turn) % len(REFUSALS)]}
        for place, prompt in enumerate(prompts)
        for turn in range(repeats)
    ]


def _complying(world: world_rules.World, split: str, count: int) -> Rows:
    """Requests about invented things, each with an invented answer and a refusal."""
    rows = []
    for place, prompt in enumerate(_ask(world, split, count)):
        request = world_rules.find_request(prompt)
        assert request is not None  # every request of the world is one
        opening = OPENINGS[place % len(OPENINGS)].format(r=f"{request.verb} a {request.material} {request.noun}")
        _, recipe = world_rules.answer(world, prompt).split(": ", 1)
        rows.append({"prompt": prompt, "response": f"{opening} {recipe}", "refusal": REFUSALS[place % len(REFUSALS)]})
    return rows


if __name__ == "__main__":
    for name, count in make_files(
        pathlib.Path(sys.argv[1]), held_out=int(sys.argv[2]) if len(sys.argv) > 2 else 12
    ).items():
        print(f"{name}.csv: {count} rows")
