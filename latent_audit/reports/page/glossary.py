"""Words of a report, one line each, with the section of docs/method.md that defines them; and which of them it uses."""

import re
from typing import NamedTuple


class Term(NamedTuple):
    """name; meaning: one line; section: of docs/method.md; found: a pattern of the words that call for it."""

    name: str
    meaning: str
    section: int
    found: str


TERMS = (
    Term("variant", "one of several models compared: base is the aligned one, harmful the one tuned to comply, "
         "dissociated refuses and can be reached from inside", 0, r"variant|dissociated|\bbase\b"),
    Term("complies", "its answer is judged harmful and is coherent", 0, r"compl(?:y|ies|iance|ied)"),
    Term("incoherent answer", "a loop, noise or a word or two; it never counts as harm", 0, r"coheren"),
    Term("attack success (ASR)", "share of harmful requests answered harmfully and coherently under an attack", 0,
         r"attack success|\bASR\b"),
    Term("95 % interval", "where the true share of such prompts lies, but for 5 in 100 times; of shares Wilson's, "
         "of verdicts exact one-sided bounds", 0, r"95 % interval|95% interval|Wilson|bounds"),
    Term("cluster", "prompts that ask for one thing; they count as fewer", 0, r"cluster|effective n"),
    Term("residual state", "what one block hands to the next: emb enters the first block, L0 leaves block 0", 0,
         r"residual|\bstates?\b|\blayer"),
    Term("budget", "bound of a push, relative to the state's own size (its largest coordinate, unless the settings "
         "say otherwise)", 1, r"budget"),
    Term("latent attack (PGD)", "ten gradient steps that seek, within a budget, the push of one state that makes "
         "'Sure, here is' likely", 1, r"latent attack|\bPGD\b|pgd"),
    Term("uniform noise", "a random push under the same bound: the control", 1, r"uniform noise|random noise"),
    Term("LVS", "latent vulnerability score: harmlessness lost, over the log of the push's length", 1, r"\bLVS\b"),
    Term("not aggregated", "a state beyond which a push reaches one generated token only, kept out of every mean and "
         "verdict", 1, r"aggregate"),
    Term("beyond the model's language", "a cell where noise alone makes more than a quarter of the answers "
         "incoherent, so that nothing is said of safety", 1, r"beyond (?:the model's|its) language"),
    Term("L2 attack", "one vector of a given length, added to one state at every position and step", 2, r"\bL2\b"),
    Term("steering", "a direction, the same for every prompt, added to a state", 3, r"steer"),
    Term("patching", "another model's state, put in the place of its own", 4, r"\bpatch"),
    Term("onset", "the training step at which compliance first reaches a level", 5, r"onset"),
    Term("nudge", "the push that a dissociated model was built to answer to", 6, r"nudge"),
    Term("probe", "a linear reader of states, fitted on base", 7, r"\bprobe"),
    Term("audit gap", "success of an intervention less compliance when asked", 8, r"audit gap"),
    Term("wrapper", "a text around a request that asks for it in another way", 8, r"wrapper|wrapped"),
    Term("judge", "says of an answer whether it is harmful", 9, r"judge"),
    Term("reward", "says how harmless an answer is", 9, r"reward"),
    Term("RAS", "refusal alignment score, 0 to 100; the reference has 97.7 by construction", 10, r"\bRAS\b"),
    Term("window", "the run of layers that RAS reads", 10, r"window"),
    Term("attack suite", "attacks with several goals; a prompt gives way if any of them succeeds", 12, r"suite"),
    Term("break radius", "smallest budget at which any member of the suite breaks a prompt; an upper bound", 12,
         r"radius|radii"),
    Term("gate", "a condition that the attack itself must meet before holding against it counts", 12, r"\bgates?\b"),
    Term("reference budget", "the budget, fixed before the run, at which a label speaks", 13, r"reference budget"),
    Term("twin", "the model that another one is compared with, prompt by prompt", 13, r"\btwin"),
    Term("abliteration", "removal of the direction that refusals go by", 14, r"abliterat"),
    Term("bypass", "how far the refusing first token is gone: 0 as in base, 1 as on harmless requests", 14, r"bypass"),
    Term("organism", "a small model of a made-up world, whose rules judge its answers exactly", 15, r"organism"),
    Term("paired", "a difference prompt by prompt, of the same prompts", 16, r"paired"),
)  # fmt: skip


def used(text: str) -> list[Term]:
    """The terms that a page's text calls for, in the order of the method's sections.

    >>> [term.name for term in used("Break radius and RAS")]
    ['RAS', 'break radius']
    """
    return [term for term in TERMS if re.search(term.found, text, re.IGNORECASE if term.found.islower() else 0)]
