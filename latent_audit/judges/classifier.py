"""A checkpoint that judges: which form it is asked in, what it is asked, and what its replies mean.

docs/method.md section 9; docs/judges.md has every form with its source.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import logging

from latent_audit.errors import InputError
from latent_audit.judges import Judge, harmbench, llama_guard, strongreject, wildguard

# Ours, tokens: a longer question is not asked; HarmBench's code cuts at its own limit instead.
MAX_TOKENS = 4096
HARMBENCH_TOKENS = 2048  # docs/method.md section 9


class Form(NamedTuple):
    """How a kind of checkpoint is asked. family: of its decoder; names: what its own name holds.

    new_tokens: so many are generated, 0 where the next token's probabilities are read; read: reply -> 1, 0 or NaN; bos:
    whether BOS is put in front; max_tokens: of a question; cuts: a longer one loses tokens at its start.
    """

    name: str
    family: str
    names: tuple[str, ...]
    new_tokens: int
    read: Callable | None
    bos: bool = True
    max_tokens: int = MAX_TOKENS
    cuts: bool = False


_HARMBENCH = {"new_tokens": 2, "read": harmbench.read, "max_tokens": HARMBENCH_TOKENS, "cuts": True}
FORMS = {
    form.name: form
    for form in (
        Form("harmbench-llama", "llama", ("harmbench",), **_HARMBENCH),  # type: ignore[arg-type]
        Form("harmbench-mistral", "mistral", ("harmbench",), **_HARMBENCH),  # type: ignore[arg-type]
        Form("llama-guard", "llama", ("llama-guard", "llamaguard", "llama_guard"), 8, llama_guard.read, bos=False),
        Form("wildguard", "mistral", ("wildguard", "wild-guard"), 32, wildguard.read),
        Form("strongreject", "gemma", ("strongreject", "strong-reject"), 0, None),
    )
}
_QUESTIONS = {
    "harmbench-llama": harmbench.llama,
    "harmbench-mistral": harmbench.mistral,
    "wildguard": wildguard.question,
}


def choose_form(wanted: str, *, name: str, family: str, template: str | None) -> Form:
    """The Form of a checkpoint. wanted: auto, reference (HarmBench's as arXiv 2606.08044's code has it) or a form.

    auto goes by the checkpoint's own name, then by its template; any other Llama or Mistral is asked HarmBench's
    question, and the self-test tells whether it is a classifier. Raises InputError where the form that was asked for,
    the name, the template and the family do not go together.
    """
    named = [form for form in FORMS.values() if any(part in name.casefold() for part in form.names)]
    if not named and llama_guard.is_template(template):
        named = [FORMS["llama-guard"]]
    suited = [form for form in named or [FORMS["harmbench-llama"], FORMS["harmbench-mistral"]] if form.family == family]
    if wanted == "auto":
        if not suited:
            known = ", ".join(f"{form.name} (a {form.family})" for form in FORMS.values())
            raise InputError(f"{name} is a {family}, and judge.form = 'auto' finds no form for it; there are {known}")
        return suited[0]
    forms = [form for form in FORMS.values() if form.name.startswith("harmbench")]
    forms = forms if wanted == "reference" else [FORMS[wanted]]
    fitting = [form for form in forms if form.family == family]
    if not fitting:
        families = " or ".join(dict.fromkeys(form.family for form in forms))
        raise InputError(f"judge.form = {wanted!r} is that of a {families}, and {name} is a {family}")
    if named and not set(named) & set(fitting):
        raise InputError(
            f"judge.form = {wanted!r}, but {name} is by its own name or template one of form {named[0].name!r}; "
            "expected that, or auto"
        )
    return fitting[0]


def make_question(form: Form, tokenizer: Any, *, reference: bool = False) -> Callable[[str, str], str]:
    """question(prompt, response) -> text; InputError for a tokenizer that has not what the form needs.

    reference: HarmBench's Llama 2 question as arXiv 2606.08044's code has it.
    """
    if (form.bos or form.name == "strongreject") and tokenizer.bos_token_id is None:
        raise InputError(f"the tokenizer of a {form.name} classifier must have a BOS token, and this one has none")
    if form.name == "strongreject":
        return strongreject.make_question(tokenizer)
    if form.name == "llama-guard":
        tokens = [(f"{name}_token", getattr(tokenizer, f"{name}_token", None)) for name in ("bos", "eos", "pad", "unk")]
        return llama_guard.make_question(tokenizer.chat_template, tuple(token for token in tokens if token[1]))
    if reference and form.name == "harmbench-llama":
        return harmbench.llama_reference
    return _QUESTIONS[form.name]


def rows_of(
    form: Form, tokenizer: Any, question: Callable[[str, str], str], pairs: Sequence[tuple[str, str]]
) -> list[list[int] | None]:
    """Token ids of the question about each (prompt, response); None for one that is too long to be asked.

    HarmBench's lose tokens at their start instead, behind BOS, as in the reference. How many were cut or left out is
    logged.
    """
    rows: list[list[int] | None] = [
        [tokenizer.bos_token_id] * form.bos + tokenizer.encode(question(*pair), add_special_tokens=False)
        for pair in pairs
    ]
    long = [index for index, row in enumerate(rows) if row is not None and len(row) > form.max_tokens]
    for index in long:
        row = rows[index]
        assert row is not None
        rows[index] = [row[0], *row[-(form.max_tokens - 1) :]] if form.cuts else None
    if long:
        done = f"were cut to {form.max_tokens} tokens" if form.cuts else "are too long to be asked: they count unparsed"
        logging.warning("%d of %d questions to the judge (%s) %s", len(long), len(rows), form.name, done)
    return rows


def opening_of(form: Form, tokenizer: Any, question: Callable[[str, str], str]) -> list[int]:
    """The tokens that every question of a form begins with, whatever it asks about; few, where its rules come last.

    A question that was cut, or is about a text (HarmBench's contexts), begins otherwise.
    """
    # Two requests and answers that differ from the first letter on.
    one, other = rows_of(form, tokenizer, question, [("Name a bird", "A wren"), ("how so?", "no")])
    assert one is not None and other is not None
    return [a for a, b in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]


def make_judge(
    form: Form,
    tokenizer: Any,
    *,
    name: str,
    generate_text: Callable[[list, int], list[str]],
    next_probabilities: Callable[[list], np.ndarray],
    reference: bool = False,
    record: dict | None = None,
) -> Judge:
    """Judge(prompts, responses) -> float64 [N]: 1 harmful, 0 not, NaN unparsed. Prompts are bare behaviours.

    Args:
      name: the checkpoint's own, which stands in every result with the form.
      generate_text: generate_text(rows, max_new_tokens) -> greedy continuations of token lists of different lengths.
      next_probabilities: next_probabilities(rows) -> the next token's, [N, V].
      record: what else is kept of it.
    Raises InputError as make_question, and for a grader's tokenizer without grades.
    """
    question = make_question(form, tokenizer, reference=reference)
    grades = strongreject.grade_ids(tokenizer) if form.read is None else ()

    def judge(prompts: Sequence[str], responses: Sequence[str]) -> np.ndarray:
        rows = rows_of(form, tokenizer, question, list(zip(prompts, responses, strict=True)))
        asked = [index for index, row in enumerate(rows) if row is not None]
        said = np.full(len(rows), np.nan)
        if not asked:
            return said
        put = [rows[index] for index in asked]
        if form.read is None:
            said[asked] = strongreject.read(strongreject.score(next_probabilities(put), grades))
        else:
            said[asked] = [form.read(reply) for reply in generate_text(put, form.new_tokens)]
        return said

    kind = f"{form.name} form" + (" of arXiv 2606.08044's code" if reference and form.name == "harmbench-llama" else "")
    return Judge(f"{name}, {kind}", False, judge, is_model=True, record={"form": form.name} | (record or {}))
