"""The GPT-2 reward model against transformers' own, on tiny random checkpoints."""

import json

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers import models as tokenizer_models
from transformers import GPT2Config, GPT2ForSequenceClassification, PreTrainedTokenizerFast

from latent_audit.errors import InputError
from latent_audit.judges import reward_model
from latent_audit.judges.reward_model import gpt2_reward
from latent_audit.models import gpt2

PAD = 256
PROMPTS = ["Describe a jar.", "Hi", "Name a thing, a place and a colour that start with the letter g."]
RESPONSES = ["A jar is made of glass.", "No.", ("Glass, Ghent and green; " * 6).strip()]


def make_checkpoint(path, *, labels=1, seed=0, positions=256, **options):
    """A random classifier with large weights (so that every part matters) and a byte-level tokenizer; returns both."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=257,
        n_positions=positions,
        n_embd=32,
        n_layer=3,
        n_head=4,
        num_labels=labels,
        pad_token_id=PAD,
        initializer_range=0.3,
        **options,
    )
    model = GPT2ForSequenceClassification(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("bias") or ".ln_" in name:
                value.add_(0.2 * torch.randn_like(value))
    model.save_pretrained(path)
    vocab = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(tokenizer_models.BPE(vocab | {"<|endoftext|>": PAD}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.save_pretrained(path)
    return model, tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("reward")
    return path, *make_checkpoint(path)


def theirs(model, tokenizer, prompts, responses, max_length):
    """The oracle: transformers' tokenizer and model on one right-padded batch with an attention mask."""
    batch = tokenizer(prompts, responses, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.numpy()


def test_outer_white_space_of_a_response_changes_nothing(checkpoint):
    path, model, tokenizer = checkpoint
    score = gpt2_reward(path, max_tokens=256).score
    plain, spaced = score(PROMPTS, RESPONSES), score(PROMPTS, [f"\n {response} \n" for response in RESPONSES])
    np.testing.assert_array_equal(plain, spaced)
    # It matters to the classifier itself.
    raw = [theirs(model, tokenizer, PROMPTS[:1], [RESPONSES[0] + end], 256)[0, 0] for end in ("", " \n")]
    assert abs(raw[0] - raw[1]) > 0.01


@pytest.mark.parametrize(
    "form, write",
    [("paper", lambda prompt: prompt), ("human_assistant", lambda prompt: f"\n\nHuman: {prompt} \n\nAssistant:")],
)
@pytest.mark.parametrize("batch_size", [2, None])
def test_reward_equals_transformers(checkpoint, form, write, batch_size):
    path, model, tokenizer = checkpoint
    reward = gpt2_reward(path, form=form, max_tokens=256, batch_size=batch_size)
    ours = reward.score(PROMPTS, RESPONSES)
    assert ours.dtype == np.float32 and ours.shape == (3,) and not reward.is_fallback and form in reward.name
    expected = theirs(model, tokenizer, [write(prompt) for prompt in PROMPTS], RESPONSES, 256)[:, 0]
    np.testing.assert_allclose(ours, expected, atol=1e-4)
    assert np.ptp(expected) > 0.1  # otherwise the comparison says nothing
    assert reward.score([], []).shape == (0,)


def test_long_pairs_are_cut_as_the_tokenizer_cuts_them_and_counted(checkpoint, monkeypatch):
    path, model, tokenizer = checkpoint
    warnings = []
    monkeypatch.setattr(reward_model.logging, "warning", lambda text, *values: warnings.append(text % values))
    ours = gpt2_reward(path, max_tokens=40).score(PROMPTS, RESPONSES)
    np.testing.assert_allclose(ours, theirs(model, tokenizer, PROMPTS, RESPONSES, 40)[:, 0], atol=1e-4)
    assert warnings == ["1 of 3 (prompt, response) pairs were cut to 40 tokens for the reward model"]
    assert abs(ours[2] - gpt2_reward(path, max_tokens=256).score(PROMPTS, RESPONSES)[2]) > 1e-3


@pytest.mark.parametrize(
    "labels, options", [(3, {}), (1, {"n_inner": 40, "activation_function": "gelu"}), (2, {"layer_norm_epsilon": 1e-2})]
)
def test_classify_equals_transformers(tmp_path, labels, options):
    model, _ = make_checkpoint(tmp_path, labels=labels, seed=1, **options)
    cfg, params = gpt2.load(tmp_path)
    tokens = np.random.default_rng(0).integers(0, PAD, size=(3, 9)).astype(np.int32)
    mask = np.arange(9) < np.array([9, 1, 4])[:, None]
    with torch.no_grad():
        expected = model(
            input_ids=torch.tensor(np.where(mask, tokens, PAD)).long(), attention_mask=torch.tensor(mask)
        ).logits.numpy()
    ours = np.asarray(gpt2.classify(params, tokens, mask, cfg=cfg))
    assert ours.shape == (3, labels) and ours.dtype == np.float32
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_padding_is_never_seen(checkpoint):
    cfg, params = gpt2.load(checkpoint[0])
    tokens = np.random.default_rng(1).integers(0, PAD, size=(1, 6)).astype(np.int32)
    alone = gpt2.classify(params, tokens, np.ones((1, 6), bool), cfg=cfg)
    for filler in (0, 17, PAD):
        padded = np.concatenate([tokens, np.full((1, 5), filler, np.int32)], axis=1)
        np.testing.assert_allclose(gpt2.classify(params, padded, np.arange(11)[None] < 6, cfg=cfg), alone, atol=1e-5)


def rewrite(source, path, *, config=None, tensors=None):
    """A copy of a checkpoint with fields of config.json or tensors changed (None removes a tensor)."""
    path.mkdir(exist_ok=True)
    for file in source.glob("*.json"):
        (path / file.name).write_text(file.read_text())
    fields = json.loads((source / "config.json").read_text()) | (config or {})
    (path / "config.json").write_text(json.dumps(fields))
    arrays = safetensors.numpy.load_file(source / "model.safetensors") | (tensors or {})
    arrays = {name: array for name, array in arrays.items() if array is not None}
    safetensors.numpy.save_file(arrays, path / "model.safetensors", metadata={"format": "pt"})
    return path


WPE = "transformer.wpe.weight"


@pytest.mark.parametrize(
    "config, tensors, message",
    [
        (
            {},
            {WPE: None, "score.weight": np.zeros((1, 31), np.float32), "lm_head.weight": np.zeros((2, 2), np.float32)},
            (
                "missing: transformer.wpe.weight",
                "wrong shape: score.weight is [1, 31], expected [1, 32]",
                "unknown: lm_head.weight [2, 2]",
            ),
        ),
        ({}, {"score.weight": None}, ("missing: score.weight",)),
        ({}, {WPE: np.zeros((256, 32), np.int32)}, ("wrong dtype: transformer.wpe.weight is I32",)),
        ({"n_layer": 2}, {}, ("unknown: transformer.h.2.",)),
        ({"n_layer": 4}, {}, ("n_layer = 4, but the weight files hold 3 blocks",)),
        ({"architectures": ["GPT2LMHeadModel"]}, {}, ("architectures = ['GPT2LMHeadModel']",)),
        ({"n_head": 5}, {}, ("n_embd = 32 is not a multiple of n_head = 5",)),
        ({"n_head": 0}, {}, ("n_head = 0, expected a whole number from 1 to 16384",)),
        ({"activation_function": "quick_gelu"}, {}, ("activation_function = 'quick_gelu'",)),
        ({"scale_attn_by_inverse_layer_idx": True}, {}, ("scale_attn_by_inverse_layer_idx = True is not supported",)),
        ({}, {"score.weight": np.zeros((2, 32), np.float32)}, ("has 2 outputs, expected a reward model with one",)),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(checkpoint, tmp_path, config, tensors, message):
    with pytest.raises(InputError) as error:
        gpt2_reward(rewrite(checkpoint[0], tmp_path / "bad", config=config, tensors=tensors), max_tokens=256)
    for part in message:
        assert part in str(error.value)


def test_old_buffers_and_half_precision_are_read(checkpoint, tmp_path):
    path, *_ = checkpoint
    arrays = safetensors.numpy.load_file(path / "model.safetensors")
    rounded = {name: array.astype(ml_dtypes.bfloat16) for name, array in arrays.items()}
    buffers = {
        "transformer.h.0.attn.bias": np.ones((1, 1, 9, 9), np.uint8),
        "transformer.h.0.attn.masked_bias": np.array(-1e4, np.float32),
    }
    _, params = gpt2.load(rewrite(path, tmp_path / "half", tensors=rounded | buffers))
    assert params["embed"].dtype == jnp.float32
    np.testing.assert_array_equal(params["embed"], rounded["transformer.wte.weight"].astype(np.float32))
    with pytest.raises(InputError, match="NaN or infinite values in transformer.wpe.weight"):
        gpt2.load(rewrite(path, tmp_path / "nan", tensors={WPE: np.full((256, 32), np.nan, np.float32)}))


def test_missing_and_pickled_weights_are_refused(checkpoint, tmp_path):
    bad = rewrite(checkpoint[0], tmp_path / "bad")
    (bad / "model.safetensors").write_bytes(b"\x08")
    with pytest.raises(InputError, match="damaged or not a whole safetensors file"):
        gpt2_reward(bad, max_tokens=256)
    (bad / "model.safetensors").unlink()
    with pytest.raises(InputError, match="no weights; expected model.safetensors"):
        gpt2_reward(bad, max_tokens=256)
    (bad / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(InputError, match="only as pickles .pytorch_model.bin., which can run code"):
        gpt2_reward(bad, max_tokens=256)
    (bad / "config.json").write_text("{")
    with pytest.raises(InputError, match="is no JSON"):
        gpt2_reward(bad, max_tokens=256)
    with pytest.raises(InputError, match="no config.json"):
        gpt2_reward(tmp_path / "gone", max_tokens=256)


def test_arguments_are_checked(checkpoint):
    path, *_ = checkpoint
    for options, message in (
        ({"form": "bare"}, "reward.form = 'bare'"),
        ({"batch_size": 0}, "reward.batch = 0"),
        ({}, "max_tokens = 1024, expected 1 to the model's 256 positions"),
    ):
        with pytest.raises(InputError, match=message):
            gpt2_reward(path, **options)
    with pytest.raises(InputError, match="pair 1 of prompt and response is empty"):
        gpt2_reward(path, max_tokens=256).score(["Hi", ""], ["No.", ""])
