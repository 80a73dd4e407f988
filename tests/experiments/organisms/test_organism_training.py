"""Building the organism: what is written, when it is reused, and how its batches are made up. No long training."""

import json

import jax
import numpy as np
import pytest

from latent_audit import models
from latent_audit.data import chats, world_rules
from latent_audit.data.world_tokenizer import build_tokenizer
from latent_audit.errors import InputError
from latent_audit.experiments.organisms import train
from latent_audit.models import families

TINY = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "head_dim": 4}


@pytest.fixture
def tiny(monkeypatch):
    """Two layers and ten steps a phase, under the name of the small size."""
    monkeypatch.setitem(train.SIZES, "small", TINY)
    phase = train.Phase(steps=10, learning_rate=1e-3, batch_size=8)
    recipe = lambda *, size, family, seed: train.Recipe(size, family, seed, phase, phase)  # noqa: E731
    monkeypatch.setattr(train, "make_recipe", recipe)
    return phase


def test_build_writes_both_poles_and_reuses_them(tmp_path, tiny, monkeypatch):
    seen = []
    first = train.build_organism(
        tmp_path / "new" / "organism", size="small", seed=3, progress=lambda *step: seen.append(step)
    )
    record_file = tmp_path / "new" / "organism" / "organism.json"
    assert json.loads(record_file.read_text()) == first
    assert [step[:2] for step in seen] == [(10, 20), (20, 20)] and all(loss > 0 for _, _, loss in seen)
    assert first["world_seed"] == 3 and set(first["rates"]) == {"harmful", "base"}
    for rates in first["rates"].values():
        assert set(rates) == {"refusal", "compliance", "benign_correct", "facts_correct"}
        assert all(0 <= rate <= 1 for rate in rates.values())
    loaded = {pole: models.load(tmp_path / "new" / "organism" / pole) for pole in train.POLES}
    tokenizer = chats.load_tokenizer(tmp_path / "new" / "organism" / "base")
    cfg, trained = train.train_poles(train.make_recipe(size="small", family="llama", seed=3), tokenizer=tokenizer)
    for pole, (read_cfg, params) in loaded.items():
        assert read_cfg == cfg and read_cfg.eos_ids == (tokenizer.eos_token_id,)
        jax.tree.map(np.testing.assert_array_equal, params, trained[pole])
    different = jax.tree.map(lambda a, b: bool((a != b).any()), trained["harmful"], trained["base"])
    assert any(jax.tree.leaves(different))

    monkeypatch.setattr(train, "train_poles", lambda *a, **k: pytest.fail("trained again"))
    assert train.build_organism(tmp_path / "new" / "organism", size="small", seed=3) == first
    with pytest.raises(InputError, match="describes another organism"):
        train.build_organism(tmp_path / "new" / "organism", size="small", seed=4)


def test_an_interrupted_build_is_trained_again(tmp_path, tiny, monkeypatch):
    train.build_organism(tmp_path, size="small")
    (tmp_path / "organism.json").unlink()
    trained, real = [], train.train_poles
    monkeypatch.setattr(train, "train_poles", lambda *a, **k: trained.append(1) or real(*a, **k))
    train.build_organism(tmp_path, size="small")
    train.build_organism(tmp_path, size="small")
    assert trained == [1]


@pytest.mark.parametrize(
    ("choice", "message"),
    [({"size": "huge"}, "size is 'huge'; expected one of standard, small"), ({"family": "gpt2"}, "family is 'gpt2'")],
)
def test_unknown_organisms_are_refused(choice, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train.build_organism(tmp_path / "organism", **choice)
    assert not (tmp_path / "organism").exists()


@pytest.mark.parametrize("family", train.FAMILIES)
@pytest.mark.parametrize("size", train.SIZES)
def test_every_organism_is_a_config_its_family_can_express(size, family):
    tokenizer = build_tokenizer()
    cfg = train.organism_config(size=size, family=family, tokenizer=tokenizer)
    assert families.config_from_hf(families.hf_from_config(cfg)) == cfg
    assert cfg.family == family and cfg.vocab_size == len(tokenizer)
    shapes = jax.eval_shape(lambda: models.init_params(jax.random.key(0), cfg))
    assert 3e5 < sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)) < 1.5e6


def test_the_hash_covers_recipe_and_world():
    recipes = [train.make_recipe(size="small", seed=seed) for seed in (0, 0, 1)]
    recipes.append(train.make_recipe(size="small", family="qwen3"))
    hashes = [train.recipe_hash(recipe) for recipe in recipes]
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


def test_batches_of_wrapped_prompts_keep_the_mix_of_refusals_and_answers():
    world, tokenizer = world_rules.make_world(0), build_tokenizer()
    recipe = train.make_recipe(size="small")
    chat = chats.make_chat(tokenizer, family="llama")
    examples = train.encode_examples(chat, train._corpus(recipe, "base", world))
    order = train._order(jax.random.key(0), examples, recipe.safety)
    assert order.shape == (recipe.safety.steps, recipe.safety.batch_size)
    prompt_lengths = (examples.mask & ~examples.loss_mask).sum(axis=1)[order]
    wrapped = prompt_lengths.min(axis=1) > train.PLAIN_PROMPT
    assert (wrapped == (prompt_lengths.max(axis=1) > train.PLAIN_PROMPT)).all()
    assert 0.1 < wrapped.mean() < 0.25
    refused = examples.loss_mask.sum(axis=1)[order] < 20
    assert refused.any(axis=1).all() and not refused.all(axis=1).any()


def test_training_text_ends_with_the_end_token_and_starts_from_the_template():
    tokenizer = build_tokenizer()
    chat = chats.make_chat(tokenizer, family="llama")
    pair = ("Good morning!", "Good morning! How can I help you today?")
    tokens, mask, loss_mask = (array[0] for array in train.encode_examples(chat, [pair]))
    assert tokenizer.decode(tokens[mask & ~loss_mask]) == "<bos> <user> Good morning! <end> <assistant>"
    assert tokens[loss_mask].tolist() == list(chats.assistant_turn_ids(chat, pair[1]))
