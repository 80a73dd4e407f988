"""The discrete attack against plain torch over transformers, the rules of its search, and its suffix as a text."""

import copy
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast

from latent_audit import models
from latent_audit.data import chats, world_words
from latent_audit.data.world_tokenizer import build_tokenizer
from latent_audit.errors import InputError
from latent_audit.interventions import gcg, gcg_text
from latent_audit.models.generate import generate
from tests.support import tiny

TARGET = np.array([5, 17, 60], np.int32)
FIRST, LENGTH = 9, 4  # three tokens of each row stand behind the suffix
PROMPT_IDS = np.array([7, 8, 2**32 - 1], np.uint32)
ALLOWED = np.arange(96) >= 20
# One shape for all tests: compiles are most of their time.
SEARCH = gcg.Search(steps=6, candidates=12, top_k=6, length=LENGTH, batch=8)


@functools.cache
def loaded(case="llama3"):
    cfg, params = models.load(tiny.checkpoint(case))
    return params, cfg


@functools.cache
def prompts():
    return tiny.rows(4, (16, 12, 9))


@functools.cache
def prepared(case="llama3"):
    params, cfg = loaded(case)
    return gcg.prepare(params, *prompts(), TARGET, cfg=cfg, first=FIRST, length=LENGTH)


def suffixes():
    return prompts()[0][:, FIRST : FIRST + LENGTH]


def keys(seed=0, rows=slice(None)):
    return gcg.prompt_keys(jax.random.key(seed), PROMPT_IDS[rows])


def attack(*, target=TARGET, rows=slice(None), cut=0, seed=0, allowed=ALLOWED, steps=6, **options):
    """Attack some of the rows without their first `cut` columns."""
    params, cfg = loaded()
    tokens, mask = (array[rows, cut:] for array in prompts())
    search = dataclasses.replace(SEARCH, steps=steps)
    return gcg.attack(
        params, tokens, mask, target, allowed, keys(seed, rows), cfg=cfg, first=FIRST - cut, search=search, **options
    )


def whole(row, suffix=None, target=TARGET):
    """Ids of one unpadded prompt with its target, as torch takes them, and the place of its suffix in them."""
    tokens, mask = prompts()
    ids = tokens[row].copy()
    if suffix is not None:
        ids[FIRST : FIRST + LENGTH] = suffix
    start = FIRST - int((~mask[row]).sum())
    return torch.tensor(np.concatenate([ids[mask[row]], target]), dtype=torch.long), slice(start, start + LENGTH)


def torch_nll(case, row, suffix, target=TARGET):
    """NLL of the target after one prompt with each of the suffixes int [..., n], in torch."""
    suffix = np.asarray(suffix)
    ids = torch.stack([whole(row, one, target)[0] for one in suffix.reshape(-1, LENGTH)])
    with torch.no_grad():
        logits = tiny.model(case)(input_ids=ids, use_cache=False).logits[:, -len(target) - 1 : -1]
    nll = torch.nn.functional.cross_entropy(logits.mT, ids[:, -len(target) :], reduction="none").mean(1)
    return nll.numpy().reshape(suffix.shape[:-1])


@functools.cache
def torch_model(case, dtype):
    if dtype == torch.float32:
        return tiny.model(case)
    made = copy.deepcopy(tiny.model(case)).to(dtype)
    # transformers' grouped product of experts takes no float64.
    made.config._experts_implementation = "eager"
    return made


def torch_gradient(case, row, dtype=torch.float32):
    """(NLL, whether the target is the argmax, gradient [n, V]) through real one-hot rows of the whole sequence."""
    model, (ids, place) = torch_model(case, dtype), whole(row)
    weight = model.get_input_embeddings().weight.detach()
    # Gemma's embedding scales what it is given; Granite's model scales what it gets.
    scale = model.config.hidden_size**0.5 if case.startswith("gemma") else 1.0
    one_hot = torch.nn.functional.one_hot(ids, len(weight)).to(dtype).requires_grad_()
    given = {"inputs_embeds": (one_hot @ weight * scale)[None]}
    if getattr(model.config, "hidden_size_per_layer_input", 0):
        table, width = model.model.embed_tokens_per_layer.weight.detach(), model.config.hidden_size_per_layer_input
        found = one_hot @ table[: len(weight)] * width**0.5
        given["per_layer_inputs"] = found.reshape(1, len(ids), -1, width)
    logits = model(**given, use_cache=False).logits[0, -len(TARGET) - 1 : -1]
    nll = torch.nn.functional.cross_entropy(logits, ids[-len(TARGET) :])
    (gradient,) = torch.autograd.grad(nll, one_hot)
    return nll.item(), (logits.argmax(-1) == ids[-len(TARGET) :]).all().item(), gradient[place].numpy()


@pytest.mark.parametrize(
    "case",
    ["llama3", "gemma2", "granite", "gpt_oss", "qwen3_5", "gemma4"]
    + [
        pytest.param(case, marks=pytest.mark.slow)
        for case in ("qwen3", "olmo3", "smollm3", "phi3", "ministral3", "mixtral", "qwen3_5_moe", "gemma4_e4b")
    ],
)
def test_gradient_equals_one_hot_rows_in_torch(case):
    params, cfg = loaded(case)
    found = jax.jit(functools.partial(gcg.token_gradient, cfg=cfg))(params, prepared(case), suffixes())
    assert found.gradient.dtype == found.nll.dtype == jnp.float32
    for row in range(3):
        nll, on_target, rounded = torch_gradient(case, row)
        np.testing.assert_allclose(found.nll[row], nll, rtol=1e-5)
        assert bool(found.on_target[row]) == on_target
        # Some models' gradients are uncertain in float32 itself: by as much as torch's own differs from float64.
        *_, exact = torch_gradient(case, row, torch.float64)
        error = max(1e-5 * np.abs(exact).max(), 2 * np.abs(rounded - exact).max())
        np.testing.assert_allclose(found.gradient[row], exact, atol=error, rtol=1e-4)


@pytest.mark.parametrize("case", ["llama3", "gemma2", "qwen3", "gemma3", "olmo3", "ministral3", "qwen3_5"])
def test_candidate_losses_equal_torch(case):
    params, cfg = loaded(case)
    candidates = np.random.default_rng(0).integers(3, 90, (3, 5, LENGTH)).astype(np.int32)
    # Five candidates are no multiple of a batch of two, and the middle row is not wanted.
    found = gcg.candidate_losses(params, prepared(case), candidates, np.array([True, False, True]), cfg=cfg, batch=2)
    assert found.dtype == jnp.float32 and np.isinf(found[1]).all()
    for row in (0, 2):
        np.testing.assert_allclose(found[row], torch_nll(case, row, candidates[row]), rtol=1e-5)


@functools.cache
def proposal(*, number=3):
    params, cfg = loaded()
    return gcg.propose(
        params,
        prepared(),
        suffixes(),
        ALLOWED,
        keys(),
        number,
        cfg=cfg,
        draws=SEARCH.candidates * gcg.OVERSAMPLE,
        top_k=SEARCH.top_k,
    )


def test_draws_change_one_token_to_one_of_the_most_promising():
    drawn = np.asarray(proposal().candidates)
    assert drawn.shape == (3, 48, LENGTH) and drawn.dtype == np.int32
    places = (drawn != np.asarray(suffixes())[:, None]).argmax(axis=2)
    for row, current in enumerate(suffixes()):
        gradient = torch.tensor(torch_gradient("llama3", row)[2])
        gradient[:, ~torch.tensor(ALLOWED)] = torch.inf
        promising = (-gradient).topk(6, dim=1).indices.numpy()
        changed = (drawn[row] != current).any(axis=1)
        for position in range(LENGTH):
            here = drawn[row, changed & (places[row] == position)]
            assert len(here)
            assert (np.delete(here, position, axis=1) == np.delete(current, position)).all()
            assert set(here[:, position]) <= set(promising[position])
        # Sampling, and not one substitute over and over.
        assert len(np.unique(drawn[row], axis=0)) > 15


def test_positions_are_uniform():
    """Also in the first draws, where turns would repeat 0, 1, 2, 3."""
    params, cfg = loaded()
    options = {"cfg": cfg, "draws": SEARCH.candidates * gcg.OVERSAMPLE, "top_k": SEARCH.top_k}
    # No token of these suffixes may be drawn, so that every draw shows its position.
    current = np.full((3, LENGTH), 3, np.int32)
    steps = [gcg.propose(params, prepared(), current, ALLOWED, keys(), n, **options).candidates for n in range(9)]
    drawn = np.concatenate(steps, axis=1)
    places = (drawn != 3).argmax(axis=2)
    assert ((drawn != 3).sum(axis=2) == 1).all()
    for row in places:
        counts = np.bincount(row, minlength=LENGTH)
        # Chi-squared of 3 degrees of freedom: above 16.3 once in a thousand.
        assert ((counts - 108) ** 2 / 108).sum() < 16.3
    assert (places[:, :LENGTH] != np.arange(LENGTH)).any() and len({tuple(row[:20]) for row in places}) == 3


def test_draws_depend_on_prompt_and_step_only():
    first, again, other = (np.asarray(proposal(number=number).candidates) for number in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any(axis=(1, 2)).all()
    draw = functools.partial(jax.random.randint, shape=(20,), minval=0, maxval=50)
    assert len({tuple(draw(key).tolist()) for key in keys()}) == 3
    np.testing.assert_array_equal(draw(keys()[2]), draw(keys(rows=[2])[0]))


def take_step(*, frozen=(False, False, False), suffix=None, allowed=ALLOWED, number=3, **options):
    params, cfg = loaded()
    return gcg.step(
        params,
        prepared(),
        suffixes() if suffix is None else suffix,
        allowed,
        keys(),
        number,
        np.array(frozen),
        cfg=cfg,
        search=SEARCH,
        **options,
    )


def test_a_step_moves_where_plain_torch_does():
    moved = take_step()
    for row, current in enumerate(suffixes()):
        drawn = np.asarray(proposal().candidates)[row]
        kept = drawn[(drawn != current).any(axis=1)][:12]
        np.testing.assert_array_equal(moved.suffix[row], kept[np.argmin(torch_nll("llama3", row, kept))])
        np.testing.assert_allclose(moved.nll[row], torch_nll("llama3", row, current), rtol=1e-5)


def test_a_step_moves_even_where_every_candidate_is_worse():
    better = attack(steps=12).suffix

    def survives(row, candidates):
        return torch_nll("llama3", row, candidates) > torch_nll("llama3", row, better[row])

    moved = take_step(suffix=better, survives=survives)
    for row in range(3):
        before, after = (torch_nll("llama3", row, suffix) for suffix in (better[row], moved.suffix[row]))
        np.testing.assert_allclose(moved.nll[row], before, rtol=1e-5)
        assert after > before and (moved.suffix[row] != better[row]).sum() == 1


def test_candidates_that_do_not_survive_are_never_taken():
    free = take_step()
    taken = [int(free.suffix[row][free.suffix[row] != suffixes()[row]][0]) for row in range(3)]

    def without(row, candidates):
        return ~(candidates == taken[row]).any(axis=1)

    moved = take_step(survives=without)
    for row in range(3):
        assert taken[row] not in moved.suffix[row]
        assert (moved.suffix[row] != suffixes()[row]).sum() == 1
    # One survivor among all draws is found and taken, whatever its loss; with none the suffix stays.
    last = np.asarray(proposal().candidates)[:, -1]
    assert (last != suffixes()).any(axis=1).all()
    only = take_step(survives=lambda row, candidates: (candidates == last[row]).all(axis=1))
    np.testing.assert_array_equal(only.suffix, last)
    none = take_step(survives=lambda row, candidates: np.zeros(len(candidates), bool))
    np.testing.assert_array_equal(none.suffix, suffixes())


def test_the_current_suffix_is_no_candidate():
    current, allowed = np.full((3, LENGTH), 30, np.int32), np.isin(np.arange(96), range(30, 36))
    params, cfg = loaded()
    drawn = gcg.propose(
        params,
        prepared(),
        current,
        allowed,
        keys(),
        0,
        cfg=cfg,
        draws=SEARCH.candidates * gcg.OVERSAMPLE,
        top_k=SEARCH.top_k,
    ).candidates
    assert (np.asarray(drawn) == current[:, None]).all(axis=2).any()
    seen = []

    def survives(row, candidates):
        seen.append(candidates)
        return np.zeros(len(candidates), bool)

    take_step(suffix=current, allowed=allowed, number=0, survives=survives)
    assert len(np.concatenate(seen)) > 100 and (np.concatenate(seen) != 30).any(axis=1).all()


def test_frozen_rows_stay_and_leave_the_others_alone():
    free, some = take_step(), take_step(frozen=(False, True, False))
    np.testing.assert_array_equal(some.suffix[[0, 2]], free.suffix[[0, 2]])
    np.testing.assert_array_equal(some.suffix[1], suffixes()[1])


def test_ten_steps_lower_the_loss():
    seen = []
    found = attack(steps=10, progress=lambda *state: seen.append(state))
    assert found.nll_trace.shape == (11, 3) and found.nll_trace.dtype == np.float32
    lowest = found.nll_trace.min(axis=0)
    assert (lowest < found.nll_trace[0] - 0.3).all()
    assert found.steps.tolist() == [10] * 3 and not found.stopped.any()
    assert [number for number, *_ in seen] == list(range(11))
    np.testing.assert_array_equal([nll for _, nll, _ in seen], found.nll_trace)
    for row in range(3):
        np.testing.assert_allclose(found.nll_trace[0, row], torch_nll("llama3", row, suffixes()[row]), rtol=1e-5)
        np.testing.assert_allclose(lowest[row], torch_nll("llama3", row, found.suffix[row]), rtol=1e-5)
        np.testing.assert_allclose(found.nll_trace[-1, row], torch_nll("llama3", row, found.last[row]), rtol=1e-5)
        assert ALLOWED[found.suffix[row][found.suffix[row] != suffixes()[row]]].all()


def continuation(suffix, row, new):
    """Greedy tokens after one prompt that holds `suffix`, by our own cached decoding."""
    params, cfg = loaded()
    tokens, mask = (np.asarray(array[[row]]) for array in prompts())
    tokens = tokens.copy()
    tokens[:, FIRST : FIRST + LENGTH] = suffix
    return np.asarray(generate(params, tokens, mask, cfg=cfg, max_new_tokens=new, eos_ids=()).tokens[0])


def test_the_search_stops_once_the_target_is_the_argmax():
    allowed = np.isin(np.arange(96), [30, 40, 53, 60, 70, 80])
    # One substitution away lies a suffix whose greedy answer is the target although its loss is higher.
    goal = np.array([*suffixes()[1][:3], 53])
    target = continuation(goal, 1, 3).astype(np.int32)
    assert torch_nll("llama3", 1, goal, target) > torch_nll("llama3", 1, suffixes()[1], target) + 0.05
    assert (target != continuation(suffixes()[1], 1, 3)).any()

    def survives(row, candidates):
        # From the start that is the goal alone; from the goal there would be ways on.
        return candidates[:, 3] == goal[3] if row == 1 else candidates[:, 0] == 30

    found = attack(target=target, allowed=allowed, steps=12, survives=survives)
    assert found.stopped.tolist() == [False, True, False]
    assert found.steps[1] < 12 and found.steps[[0, 2]].tolist() == [12, 12]
    np.testing.assert_array_equal(found.last[1], goal)
    # What is put to the model is the suffix of the lowest loss, here the start.
    np.testing.assert_array_equal(found.suffix[1], suffixes()[1])
    before, after = np.split(found.nll_trace[:, 1], found.steps[1:2])
    assert len(before) and (before == before[0]).all()
    np.testing.assert_allclose(after, torch_nll("llama3", 1, goal, target), rtol=1e-5)
    for row in (0, 2):
        assert (continuation(found.suffix[row], row, 3) != target).any()


def test_the_loop_ends_when_all_rows_have_stopped():
    target = continuation(suffixes()[1], 1, 3).astype(np.int32)
    seen = []
    found = attack(target=target, rows=[1, 1, 1], steps=50, progress=lambda *state: seen.append(state))
    assert len(seen) == 1 and seen[0][0] == 0 and seen[0][2].all()
    assert found.stopped.all() and not found.steps.any() and found.nll_trace.shape == (51, 3)
    np.testing.assert_array_equal(found.suffix, suffixes()[[1, 1, 1]])
    np.testing.assert_allclose(found.nll_trace, torch_nll("llama3", 1, suffixes()[1], target), rtol=1e-5)


def test_a_prompt_does_not_depend_on_its_batch_or_padding():
    together = attack()
    # Other neighbours in another order; then alone, without seven columns of padding.
    for rows, cut in (([2, 0, 2], 0), ([2], 7)):
        found = attack(rows=rows, cut=cut)
        np.testing.assert_array_equal(found.suffix, together.suffix[rows])
        np.testing.assert_array_equal(found.last, together.last[rows])
        np.testing.assert_allclose(found.nll_trace, together.nll_trace[:, rows], rtol=1e-5)
    assert (attack(seed=1).last != together.last).any(axis=1).all()


def test_one_compile_serves_all_steps_and_prompts():
    compiled = (gcg.prepare, gcg.propose, gcg.candidate_losses)
    attack(steps=2)
    before = [function._cache_size() for function in compiled]
    attack(steps=15, seed=2, rows=[1, 2, 0], survives=lambda row, candidates: candidates[:, 0] % 2 == 0)
    assert [function._cache_size() for function in compiled] == before


def byte_level(merges=(), template=None):
    """A byte-level BPE tokenizer with these merges and Llama 3's markers."""
    vocab = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(token_models.BPE(vocab, list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in ("<|bos|>", "<|eot|>", "<|user|>", "<|assistant|>")
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|bos|>", eos_token="<|eot|>", chat_template=template or TEMPLATE
    )


# Trims the turn, as Llama 3's and Gemma's do.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{{ message['content'] | trim + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPACED = (("\u0120", "!"), ("\u0120", "a"), ("a", "b"))


def sentence_piece(behind=""):
    """A tokenizer that writes spaces as a mark of their own, as Gemma's does; `behind` ends its template."""
    pieces = ["<unk>", "<bos>", "<eos>", "<user>", "<assistant>", "\u2581!", "!", "\u2581", "\u2581a", "ab"]
    merges = [("\u2581", "!"), ("\u2581", "a"), ("a", "b")]
    pieces += list("abcdefghijklmnopqrstuvwxyz?:")
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(token_models.BPE(vocab, merges, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.Fuse()])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in pieces[1:5]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        chat_template=TEMPLATE.replace("<|", "<").replace("|>", ">") + behind,
    )


def make_chat(tokenizer):
    return chats.make_chat(tokenizer, family="llama")


def test_allowed_tokens_of_the_organism_are_its_words_and_marks():
    tokenizer = build_tokenizer()
    allowed = gcg_text.allowed_tokens(tokenizer, len(tokenizer) + 3)
    assert allowed.dtype == bool and allowed.shape == (len(tokenizer) + 3,)
    left_out = {tokenizer.convert_ids_to_tokens(int(token)) for token in np.flatnonzero(~allowed[: len(tokenizer)])}
    assert left_out == set(world_words.SPECIAL_TOKENS)
    assert not allowed[len(tokenizer) :].any()


def test_allowed_tokens_are_printable_and_stay_themselves():
    # "cd" is in the vocabulary, but its letters are merged into other tokens first.
    tokenizer = byte_level([("\u0120", "!"), ("b", "c"), ("c", "d"), ("a", "bc"), ("\u010a", "\u010a")])
    tokenizer.add_tokens(["wordlike"])
    vocab, size = tokenizer.get_vocab(), len(tokenizer)
    allowed = gcg_text.allowed_tokens(tokenizer, size)
    ascii_letters = {chr(code) for code in range(0x21, 0x7F)}
    expected = ascii_letters | {"\u0120!", "bc", "cd", "abc"}
    assert {token for token, index in vocab.items() if allowed[index]} == expected
    # A vocabulary that the model cuts short, and one where nothing is left.
    assert gcg_text.allowed_tokens(tokenizer, 40).sum() == allowed[:40].sum()
    with pytest.raises(InputError, match="expected at least 2"):
        gcg_text.allowed_tokens(tokenizer, 1)


def test_tokens_that_are_merged_away_are_not_allowed():
    tokenizer = byte_level([("a", "b"), ("b", "c"), ("a", "bc")])
    # "abc" is made of "a" and "bc", but "a" and "b" merge first: its text is read as "ab", "c".
    allowed = gcg_text.allowed_tokens(tokenizer, len(tokenizer))
    found = {token: allowed[index] for token, index in tokenizer.get_vocab().items()}
    assert found["ab"] and found["bc"] and not found["abc"]


@pytest.mark.parametrize(
    "make, suffix, token",
    [
        (build_tokenizer, "! ! ! ! !", "!"),
        (build_tokenizer, "!!!!!", "!"),
        (lambda: byte_level(SPACED), "! ! ! ! !", "\u0120!"),
        (sentence_piece, "! ! ! ! !", "\u2581!"),
    ],
)
def test_the_suffix_is_found_where_it_stands(make, suffix, token):
    chat = make_chat(make())
    texts = ["How do I carve a cedar lantern?", "a", "a a b ! ! ! ! ! a"]
    placed = gcg_text.place_suffix(chat, texts, max_length=200, suffix=suffix, length=5)
    columns = slice(placed.first, placed.first + 5)
    assert (placed.tokens[:, columns] == chat.tokenizer.convert_tokens_to_ids(token)).all()
    assert placed.mask[:, placed.first - 1 :].all()
    # Nothing but end of turn and the assistant's marker behind it, the prompt before it.
    assert placed.tokens.shape[1] == placed.first + 5 + 2
    expected = chats.encode_prompts(chat, [f"{text} {suffix}" for text in texts], max_length=200)
    np.testing.assert_array_equal(placed.tokens, expected.tokens)
    np.testing.assert_array_equal(placed.mask, expected.mask)
    for (before, behind), text in zip(placed.frames, texts, strict=True):
        assert before.endswith(f"{text} ") and before + suffix + behind == chats.render(chat, f"{text} {suffix}")


def test_a_suffix_that_cannot_be_placed_is_an_error():
    place = functools.partial(gcg_text.place_suffix, max_length=100, suffix=gcg_text.spaced_suffix(3), length=3)
    with pytest.raises(InputError, match="is 3 tokens .* expected 4"):
        place(make_chat(build_tokenizer()), ["a"], length=4)
    # Without a merged "\u0120!" the spaces between are tokens too; with "!<mark>" the last one is not its own.
    with pytest.raises(InputError, match="is 5 tokens"):
        place(make_chat(byte_level()), ["a"])
    shared = byte_level([*SPACED, ("\u0120!", "x")], TEMPLATE.replace("trim +", "trim + 'x' +"))
    with pytest.raises(InputError, match="is 3 tokens of this tokenizer, some shared"):
        place(make_chat(shared), ["a"])
    twice = byte_level(SPACED, TEMPLATE.replace("trim +", "trim + message['content'] +"))
    with pytest.raises(InputError, match="2 times"):
        place(make_chat(twice), ["a"])
    upper = byte_level(SPACED, TEMPLATE.replace("| trim", "| replace('z', 'y')"))
    with pytest.raises(InputError, match="it changes the text"):
        place(make_chat(upper), ["zebra"])
    with pytest.raises(InputError, match="max_length"):
        place(make_chat(build_tokenizer()), ["a b"], max_length=6)


@pytest.mark.parametrize(
    "make, mark, space",
    [
        (build_tokenizer, "!", None),
        (lambda: byte_level([*SPACED, ("!", "!")]), "!", "\u0120"),
        (sentence_piece, "!", "\u2581"),
    ],
)
def test_the_papers_start_is_marks_behind_a_space_token(make, mark, space):
    chat = make_chat(make())
    texts = ["How do I carve a cedar lantern?", "a", " a b! "]
    placed = gcg_text.place_tokens(chat, texts, max_length=200, length=5)
    ids = chat.tokenizer.get_vocab()
    put = [*([ids[space]] if space else []), *[ids[mark]] * 5]
    plain = chats.encode_prompts(chat, [text.strip() for text in texts], max_length=200)
    for row, (before, behind) in enumerate(placed.frames):
        own = plain.tokens[row][plain.mask[row]].tolist()
        # The end of turn and the assistant's marker stand behind the suffix.
        assert placed.tokens[row][placed.mask[row]].tolist() == [*own[:-2], *put, *own[-2:]]
        assert before + "#" + behind == chats.render(chat, f"{texts[row].strip()} #")
    assert (placed.tokens[:, placed.first : placed.first + 5] == ids[mark]).all()
    with pytest.raises(InputError, match=f"max_length = {plain.tokens.shape[1] - 1} tokens"):
        gcg_text.place_tokens(chat, texts, max_length=plain.tokens.shape[1] - 1 + len(put), length=5)


def test_a_start_that_no_token_can_make_is_an_error():
    chat = make_chat(byte_level(template=TEMPLATE.replace("trim +", "trim + 'x' +"), merges=[("a", "x")]))
    with pytest.raises(InputError, match="as one token; the discrete attack cannot place"):
        gcg_text.place_tokens(chat, ["a"], max_length=100, length=2)
    tokenizer = byte_level()
    assert gcg_text.token_of(tokenizer, "!!") is None
    assert tokenizer.convert_ids_to_tokens(gcg_text.token_of(tokenizer, " ")) == "\u0120"
    assert gcg_text.suffix_texts(tokenizer, [[gcg_text.token_of(tokenizer, " ")] * 2], spaced=False) == ["  "]


def test_survival_is_that_of_the_whole_formatted_prompt():
    tokenizer = byte_level([*SPACED, ("c", "<")])
    placed = gcg_text.place_suffix(make_chat(tokenizer), ["x", "longer x"], max_length=100, suffix="! ! !", length=3)
    ids = tokenizer.get_vocab()
    cases = [
        (["\u0120!", "\u0120!", "\u0120a"], True),
        (["\u0120a", "b", "a"], True),
        (["\u0120!", "!", "c"], True),
        (["\u0120!", "a", "b"], False),  # would be read as "ab"
        (["!", "\u0120!", "!"], False),  # the space before it would join it
        (["\u0120!", "!", "\u0120"], False),  # the template trims it
        (["\u0120!", "\u0120", "a"], False),
    ]
    candidates = np.array([[ids[token] for token in tokens] for tokens, _ in cases], np.int32)
    for row in range(2):
        assert gcg_text.survives(tokenizer, placed, row, candidates).tolist() == [same for _, same in cases]
    assert gcg_text.suffix_texts(tokenizer, candidates[:2]) == ["! ! a", "aba"]


def test_the_text_found_is_the_ids_that_were_attacked():
    # Shaped like the other tests: seven tokens of prompt, three behind the suffix, more vocabulary than tokens.
    tokenizer = sentence_piece(behind=":")
    chat, texts = make_chat(tokenizer), ["zcdefg?", "xc?", "c"]
    params, cfg = loaded()
    placed = gcg_text.place_suffix(chat, texts, max_length=16, suffix="! ! ! !", length=LENGTH)
    assert placed.tokens.shape == (3, 16) and placed.first == FIRST
    checked = []

    def survives(row, candidates):
        checked.append(gcg_text.survives(tokenizer, placed, row, candidates))
        return checked[-1]

    found = gcg.attack(
        params,
        placed.tokens,
        placed.mask,
        np.array(chats.target_ids(chat, "xyz"), np.int32),
        gcg_text.allowed_tokens(tokenizer, cfg.vocab_size),
        keys(),
        cfg=cfg,
        first=placed.first,
        search=dataclasses.replace(SEARCH, steps=8),
        survives=survives,
    )
    # The check had something to refuse, and the search found something nevertheless.
    assert 0 < np.concatenate(checked).mean() < 1 and (found.nll_trace.min(axis=0) < found.nll_trace[0]).all()
    attacked = [
        gcg_text.with_suffix(text, suffix)
        for text, suffix in zip(texts, gcg_text.suffix_texts(tokenizer, found.suffix), strict=True)
    ]
    again = chats.encode_prompts(chat, attacked, max_length=16)
    expected = placed.tokens.copy()
    expected[:, FIRST : FIRST + LENGTH] = found.suffix
    np.testing.assert_array_equal(again.tokens, expected)
    np.testing.assert_array_equal(again.mask, placed.mask)
