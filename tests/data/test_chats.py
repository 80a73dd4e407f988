"""Chat formatting against transformers and against turns written out by hand, on small byte-level tokenizers."""

import datetime
import json
import os

import numpy as np
import pytest
from absl import logging
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

from latent_audit.data import chats
from latent_audit.errors import InputError

# Templates of our own in the manner of each family's.
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday is " + date_string + ".<|eot_id|>" }}
{%- for message in messages %}
    {{- "<|start_header_id|>" + message["role"] + "<|end_header_id|>\\n\\n" }}
    {{- message["content"] | trim + "<|eot_id|>" }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- "<|start_header_id|>assistant<|end_header_id|>\\n\\n" }}
{%- endif %}
"""
INST = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN2 = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN3 = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ raise_exception('no system turn') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if message['role'] == 'assistant' else message['role']) + '\\n' "
    "+ message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
# Opens a thinking block in the generation prefix only, and reads the clock in two formats.
CLOCK = (
    "\n  {% set day = strftime_now('%Y-%m-%d') %}\n"
    '{{ bos_token }}{{ strftime_now("%d %B") }} {{ day }}{% for message in messages %}'
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>' }}{% endif %}"
)

LLAMA3_TOKENS = ("<|begin_of_text|>", "<|eot_id|>", ("<|start_header_id|>", "<|end_header_id|>"))
INST_TOKENS = ("<s>", "</s>", ())
QWEN_TOKENS = (None, "<|im_end|>", ("<|im_start|>", "<|endoftext|>"))
GEMMA_TOKENS = ("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>"))
FAMILIES = {
    "llama": (
        LLAMA3_TOKENS,
        LLAMA3,
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
        "Today is 26 Jul 2024.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "Sure<|eot_id|>",
    ),
    "mistral": (INST_TOKENS, INST, "<s>[INST] Hi [/INST]", " Sure</s>"),
    "qwen2": (
        QWEN_TOKENS,
        QWEN2,
        "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        "Sure<|im_end|>",
    ),
    "qwen3": (
        QWEN_TOKENS,
        QWEN3,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        "Sure<|im_end|>",
    ),
    "gemma2": (
        GEMMA_TOKENS,
        GEMMA,
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "Sure<end_of_turn>",
    ),
    "gemma3_text": (
        GEMMA_TOKENS,
        CLOCK,
        "\n<bos>26 July 2024-07-26<|user|>Hi<eos><|assistant|><think>\n</think>\n\n",
        "Sure<eos>",
    ),
}
PAPER = {
    "llama": (
        LLAMA3_TOKENS,
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
        "Sure<|eot_id|>",
    ),
    "llama 2": (INST_TOKENS, "<s>[INST] Hi [/INST]", " Sure </s>"),
    "mistral": (INST_TOKENS, "<s>[INST] Hi [/INST]", " Sure</s>"),
    "qwen2": (QWEN_TOKENS, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Sure<|im_end|>"),
    "qwen3": (QWEN_TOKENS, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "Sure<|im_end|>"),
    "gemma": (GEMMA_TOKENS, "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "Sure<end_of_turn>"),
    "gemma2": (GEMMA_TOKENS, "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "Sure<end_of_turn>"),
    "gemma3_text": (
        GEMMA_TOKENS,
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        "Sure<end_of_turn>",
    ),
}
PROMPTS = ["Hi", "What is a jar?\n\nAnswer briefly: caf\u00e9.", "x" * 40]


def tokenizer_of(tokens, template=None, *, pad=None):
    """A byte-level tokenizer that, like Llama's, puts BOS before plain text."""
    bos, eos, others = tokens
    vocab = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [token for token in (pad, bos, eos, *others) if token]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=bos, eos_token=eos, pad_token=pad, chat_template=template
    )


def chat_of(family, **options):
    tokens, template, *_ = FAMILIES[family]
    return chats.make_chat(tokenizer_of(tokens, template), family=family, **options)


def user(text):
    return [{"role": "user", "content": text}]


def on_day(monkeypatch, year, month, day):
    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(year, month, day)

    monkeypatch.setattr(chat_template_utils, "datetime", Clock)


@pytest.mark.parametrize("family", FAMILIES)
def test_default_template(family, monkeypatch):
    chat = chat_of(family)
    assert chats.render(chat, "Hi") == FAMILIES[family][2]
    encoded = chats.encode_prompts(chat, PROMPTS, max_length=400)
    assert encoded.tokens.dtype == np.int32 and encoded.mask.dtype == bool
    assert encoded.tokens.shape == encoded.mask.shape == (3, encoded.mask.sum(axis=1).max())
    # On the pinned day itself transformers, asked for tokens, must agree; its answer is the oracle.
    on_day(monkeypatch, 2024, 7, 26)
    for tokens, mask, prompt in zip(encoded.tokens, encoded.mask, PROMPTS, strict=True):
        ids = chat.tokenizer.apply_chat_template(user(prompt), add_generation_prompt=True, enable_thinking=False)
        # A thought that the template opens is ended on top.
        closing = chat.tokenizer(chat.closing, add_special_tokens=False)["input_ids"]
        assert tokens[mask].tolist() == ids["input_ids"] + closing
        # Left padding: False, then True, so that the last column is the decision point.
        assert (np.diff(mask.astype(int)) >= 0).all() and mask[-1]
        bos = chat.tokenizer.bos_token_id
        assert bos is None or (tokens[mask] == bos).sum() == 1


@pytest.mark.parametrize("name", PAPER)
def test_paper_preset(name):
    tokens, prompt, turn = PAPER[name]
    tokenizer = tokenizer_of(tokens)
    chat = chats.make_chat(tokenizer, family=name.split()[0], preset="paper")
    assert chats.render(chat, "Hi") == prompt
    encoded = chats.encode_prompts(chat, ["Hi"], max_length=99)
    assert encoded.mask.all()
    assert tokenizer.decode(encoded.tokens[0]) == prompt
    if tokens[0]:
        assert encoded.tokens[0, 0] == tokenizer.bos_token_id and (encoded.tokens == tokenizer.bos_token_id).sum() == 1
    assert tokenizer.decode(chats.assistant_turn_ids(chat, "Sure")) == turn


@pytest.mark.parametrize("family", FAMILIES)
def test_assistant_turn_continues_the_prompt_up_to_its_end(family):
    chat = chat_of(family)
    ids = chats.assistant_turn_ids(chat, "Sure")
    assert chat.tokenizer.decode(ids) == FAMILIES[family][3]
    assert ids[-1] in chats.eos_ids(chat, None)
    assert chats.target_ids(chat, "Sure, here") == tuple(chat.tokenizer.encode("Sure, here", add_special_tokens=False))


def test_the_day_changes_nothing(monkeypatch):
    for family in ("llama", "gemma3_text"):
        chat = chat_of(family, date="05 Jan 2031")
        renders, hashes = set(), set()
        for day in ((2024, 7, 26), (2029, 12, 31)):
            on_day(monkeypatch, *day)
            renders.add(chats.render(chat, "Hi"))
            hashes.add(chats.template_sha256(chat))
        assert len(renders) == len(hashes) == 1
        assert "2031" in renders.pop()
        # The date is part of the measurement.
        assert hashes != {chats.template_sha256(chat_of(family))}


def test_a_clock_format_that_is_no_literal_is_of_the_pinned_day_too():
    template = "{% set f = '%j' %}{{ strftime_now(f) }} {{ messages[0].content }}{{ eos_token }}"
    chat = chats.make_chat(tokenizer_of(GEMMA_TOKENS, template), family="gemma2")
    assert chats.render(chat, "Hi") == "208 Hi<eos>"


@pytest.mark.parametrize(
    "thinking, ending", [(False, "assistant\n<think>\n\n</think>\n\n"), (True, "assistant\n"), (None, "assistant\n")]
)
def test_thinking_switch(thinking, ending):
    assert chats.render(chat_of("qwen3", enable_thinking=thinking), "Hi").endswith(ending)


def test_template_hash_is_of_what_is_rendered(tmp_path):
    plain = chats.template_sha256(chat_of("qwen2"))
    assert plain == chats.template_sha256(chat_of("qwen2"))
    (tmp_path / "t.jinja").write_text(QWEN2.replace("helpful", "kind"))
    other = chat_of("qwen2", template_file=tmp_path / "t.jinja")
    assert "You are kind." in chats.render(other, "Hi")
    assert len({plain, chats.template_sha256(other), chats.template_sha256(chat_of("qwen2", preset="paper"))}) == 3


def test_width_and_length():
    chat = chat_of("mistral")
    longest = chats.encode_prompts(chat, PROMPTS, max_length=400).tokens.shape[1]
    wide = chats.encode_prompts(chat, PROMPTS, max_length=longest, width=longest + 5)
    assert wide.tokens.shape == (3, longest + 5) and not wide.mask[:, :5].any()
    message = f"1 of 3 prompts have more than max_length = {longest - 1} tokens, the longest {longest}"
    with pytest.raises(InputError, match=message):
        chats.encode_prompts(chat, PROMPTS, max_length=longest - 1)
    with pytest.raises(InputError, match="width = 9 is too small"):
        chats.encode_prompts(chat, PROMPTS, max_length=longest, width=9)
    with pytest.raises(InputError, match="no prompts"):
        chats.encode_prompts(chat, [], max_length=9)
    with pytest.raises(InputError, match="has no tokens"):
        chats.target_ids(chat, "")


def test_decode_takes_lengths_and_drops_special_tokens():
    chat = chat_of("gemma2")
    text = "Sure, caf\u00e9."
    row = [*chats.target_ids(chat, text), chat.tokenizer.convert_tokens_to_ids("<end_of_turn>"), 5, 5]
    assert chats.decode(chat, np.array([row, row]), np.array([len(row) - 2, 4])) == [text, "Sure"]


def test_a_response_has_no_outer_white_space():
    chat = chat_of("gemma2")
    texts = [" \n Sure.\n\n", "a  b ", "\t"]
    rows = [list(chats.target_ids(chat, text)) for text in texts]
    width = max(map(len, rows))
    tokens = np.array([row + [5] * (width - len(row)) for row in rows])
    assert chats.decode(chat, tokens, list(map(len, rows))) == ["Sure.", "a  b", ""]


def test_end_and_pad_tokens():
    gemma, qwen = chat_of("gemma2"), chat_of("qwen2")
    eos, turn = (gemma.tokenizer.convert_tokens_to_ids(token) for token in ("<eos>", "<end_of_turn>"))
    assert set(chats.eos_ids(gemma, None)) == {eos, turn}
    assert chats.eos_ids(gemma, {"eos_token_id": [7, turn]}) == (7, turn, eos)
    assert chats.eos_ids(gemma, {"eos_token_id": 7}) == (7, eos, turn)
    assert chats.eos_ids(qwen, {}) == (qwen.tokenizer.convert_tokens_to_ids("<|im_end|>"),)
    with pytest.raises(InputError, match="eos_token_id = '</s>'"):
        chats.eos_ids(gemma, {"eos_token_id": "</s>"})
    assert chats.pad_id(gemma) == eos
    padded = chats.make_chat(tokenizer_of(INST_TOKENS, INST, pad="<pad>"), family="mistral")
    assert chats.pad_id(padded) == padded.tokenizer.convert_tokens_to_ids("<pad>")
    bare = chats.make_chat(tokenizer_of((None, None, ()), "{{ messages[0].content }}"), family="llama")
    assert chats.pad_id(bare) == 0 and chats.eos_ids(bare, None) == ()


@pytest.mark.parametrize(
    "tokens, template, options, message",
    [
        (
            INST_TOKENS,
            None,
            {},
            "no chat template; give one with the config field chat.template_file, or use chat.preset=paper",
        ),
        (INST_TOKENS, INST, {"preset": "papre"}, "chat.preset = 'papre', expected one of default, paper"),
        (INST_TOKENS, INST, {"date": "2024-07-26"}, "chat.date = '2024-07-26', expected a day such as"),
        (INST_TOKENS, INST, {"enable_thinking": "no"}, "chat.thinking = 'no'"),
        (INST_TOKENS, INST, {"template_file": "gone.jinja"}, "cannot be read"),
        (INST_TOKENS, INST, {"template_file": "gone.jinja", "preset": "paper"}, "exclude each other"),
        (INST_TOKENS, "{{ bos_token }}" + INST, {}, "writes <s> twice"),
        (INST_TOKENS, "{{ bos_token }}Hello", {}, "leaves out the user's turn"),
        (INST_TOKENS, "{{ raise_exception('never') }}", {}, "fails on a conversation of the roles user: never"),
        (INST_TOKENS, "{% if %}", {}, "the chat template fails"),
        (INST_TOKENS, {"rag": INST, "tool_use": INST}, {}, "several chat templates"),
        (INST_TOKENS, None, {"preset": "paper", "family": "gemma2"}, "<start_of_turn>, <end_of_turn>, no single"),
        (INST_TOKENS, None, {"preset": "paper", "family": "phi3"}, "for the family 'phi3' none is known; name one of"),
        (QWEN_TOKENS, None, {"preset": "paper", "family": "mistral"}, "has </s>, no single special token"),
        ((None, "</s>", ()), INST, {"preset": "paper"}, "this tokenizer has none"),
    ],
)
def test_bad_choices_are_named(tokens, template, options, message):
    with pytest.raises(InputError) as error:
        chats.make_chat(tokenizer_of(tokens, template), **{"family": "mistral"} | options)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "template, message",
    [
        (GEMMA.replace("'system'", "'assistant'"), "fails on a conversation of the roles user, assistant"),
        ("{{ bos_token }}{{ messages[0]['content'] }}", "does not write the answer"),
        (INST.replace(" + eos_token", ""), "closes the assistant's turn with no end-of-turn token"),
    ],
)
def test_templates_that_cannot_write_an_answer(template, message):
    chat = chats.make_chat(tokenizer_of(INST_TOKENS, template), family="mistral")
    with pytest.raises(InputError) as error:
        chats.assistant_turn_ids(chat, "Sure")
    assert message in str(error.value)


def test_a_template_without_bos_is_followed_with_a_warning(monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, "warning", lambda *arguments: warnings.append(arguments))
    chat = chats.make_chat(tokenizer_of(INST_TOKENS, INST.replace("{{ bos_token }}", "")), family="mistral")
    assert len(warnings) == 1 and "<s>" in warnings[0]
    ids = chats.encode_prompts(chat, ["Hi"], max_length=99).tokens[0].tolist()
    assert ids == chat.tokenizer.apply_chat_template(user("Hi"), add_generation_prompt=True)["input_ids"]


def test_load_tokenizer(tmp_path):
    tokenizer_of(GEMMA_TOKENS, GEMMA).save_pretrained(tmp_path / "good")
    loaded = chats.make_chat(chats.load_tokenizer(tmp_path / "good"), family="gemma2")
    assert chats.render(loaded, "Hi") == FAMILIES["gemma2"][2]
    assert chats.template_sha256(loaded) == chats.template_sha256(chat_of("gemma2"))
    with pytest.raises(InputError, match="no such directory"):
        chats.load_tokenizer(tmp_path / "gone")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="holds no tokenizer"):
        chats.load_tokenizer(tmp_path / "weights")
    (tmp_path / "good" / "tokenizer.json").write_text('{"version": ')
    with pytest.raises(InputError, match="is no JSON"):
        chats.load_tokenizer(tmp_path / "good")


def test_a_tokenizer_is_read_as_its_file_has_it(tmp_path, monkeypatch):
    """transformers rebuilds whatever lies beside a Qwen 2 config.json as Qwen 2's own, and finds no token at all."""
    warned = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: warned.append(text % values))
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "how": 1, "to": 2, "help": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    for family, expected in (("qwen2", 1), ("qwen3", 0)):
        path = tmp_path / family
        path.mkdir()
        (path / "config.json").write_text(f'{{"model_type": "{family}"}}')
        PreTrainedTokenizerFast(
            tokenizer_object=inner,
            unk_token="<unk>",
            pad_token="<unk>",
            eos_token="<unk>",
            chat_template="{{ messages[0]['content'] }}",
        ).save_pretrained(path)
        warned.clear()
        found = chats.load_tokenizer(path)
        assert found("how to help me", add_special_tokens=False)["input_ids"] == [1, 2, 3, 0]
        assert found.chat_template and found.eos_token == "<unk>"
        assert len([line for line in warned if "otherwise than tokenizer.json" in line]) == expected


# Ids that the model has no row for.


def test_ids_beyond_the_models_table_are_refused():
    rows = len(tokenizer_of(QWEN_TOKENS))
    chat = chats.make_chat(tokenizer_of(QWEN_TOKENS, QWEN2), family="qwen2", vocab_size=rows)
    assert chats.encode_prompts(chat, ["Hi"], max_length=99).tokens.max() < rows
    # The template's own markers: <|im_end|> is the tokenizer's EOS, <|im_start|> is written by the template alone.
    eos, start = (chat.tokenizer.convert_tokens_to_ids(token) for token in ("<|im_end|>", "<|im_start|>"))
    assert eos < start
    for vocab_size, token, number in ((eos, "<|im_end|>", eos), (start, "<|im_start|>", start)):
        with pytest.raises(InputError) as error:
            chats.make_chat(tokenizer_of(QWEN_TOKENS, QWEN2), family="qwen2", vocab_size=vocab_size)
        assert f"writes {token!r} as id {number}, but the model has vocab_size = {vocab_size}" in str(error.value)
    # Plain text: a table that is shorter than the alphabet.
    with pytest.raises(InputError, match="as id 255, but the model has vocab_size = 100"):
        chats.make_chat(tokenizer_of((None, None, ()), "{{ messages[0].content }}"), family="llama", vocab_size=100)


def test_an_added_token_beyond_the_table_is_refused_where_it_is_written():
    tokens = ("<bos>", "<eos>", ("<start_of_turn>", "<end_of_turn>", "<picture>"))
    tokenizer = tokenizer_of(tokens, GEMMA)
    picture = tokenizer.convert_tokens_to_ids("<picture>")
    chat = chats.make_chat(tokenizer, family="gemma2", vocab_size=picture)
    assert chats.encode_prompts(chat, ["Hi"], max_length=99).mask.all()
    for encode in (
        lambda text: chats.encode_prompts(chat, ["Hi", text], max_length=99),
        lambda text: chats.target_ids(chat, text),
        lambda text: chats.assistant_turn_ids(chat, text),
    ):
        encode("a picture")
        with pytest.raises(InputError, match=f"writes '<picture>' as id {picture}"):
            encode("a <picture>")
    whole = chats.make_chat(tokenizer, family="gemma2", vocab_size=picture + 1)
    assert picture in chats.target_ids(whole, "a <picture>")


def test_a_pad_token_beyond_the_table_is_not_used():
    tokenizer = tokenizer_of(INST_TOKENS, INST)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    pad, eos = tokenizer.pad_token_id, tokenizer.eos_token_id
    padded, bare = (chats.make_chat(tokenizer, family="mistral", vocab_size=size) for size in (pad + 1, pad))
    assert (chats.pad_id(padded), chats.pad_id(bare)) == (pad, eos)
    encoded = chats.encode_prompts(bare, ["Hi", "Hi there"], max_length=99)
    assert encoded.tokens.max() < pad and not encoded.mask.all()
    nothing = tokenizer_of((None, None, ()), "{{ messages[0].content }}")
    nothing.add_special_tokens({"pad_token": "<pad>"})
    assert chats.pad_id(chats.make_chat(nothing, family="llama", vocab_size=nothing.pad_token_id)) == 0


@pytest.mark.parametrize("named", [-1, 10**6, 2.0, float("nan"), True, "1", [1, None], [[1]], {"a": 1}, 10**30])
def test_end_tokens_are_ids_of_the_model(named):
    tokenizer = tokenizer_of(GEMMA_TOKENS, GEMMA)
    chat = chats.make_chat(tokenizer, family="gemma2", vocab_size=len(tokenizer))
    with pytest.raises(InputError, match="generation_config.json: eos_token_id = .*below vocab_size = 260"):
        chats.eos_ids(chat, {"eos_token_id": named})


# Checkpoints and template files that are none.


@pytest.mark.parametrize(
    "template, message",
    [
        (5, "the checkpoint's chat_template = 5, expected text"),
        (True, "= True, expected text"),
        ({"default": 5}, "= 5, expected text"),
        ({"default": [INST]}, "expected text"),
        ([INST], "expected text"),
        ({}, "the checkpoint has no chat template"),
        ("\ud800" + INST, "holds half a surrogate pair"),
        ("\0" + INST, "holds a control character, U+0000"),
        ("{# " + "x" * 2**20 + " #}" + INST, "characters, at most 1048576 are read"),
    ],
)
def test_a_checkpoints_template_may_be_anything(template, message):
    tokenizer = tokenizer_of(INST_TOKENS)
    tokenizer.chat_template = template
    with pytest.raises(InputError) as error:
        chats.make_chat(tokenizer, family="mistral")
    assert message in str(error.value) and len(str(error.value)) < 400


def test_template_files(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes(b"\xff{{ messages }}")
    (tmp_path / "blank").write_text(" \n")
    (tmp_path / "escape").write_text("{{ messages[0].content }}\x1b")
    (tmp_path / "long").write_text(" " * (2**20 + 1))
    for path, message in {
        "pipe": "is a pipe or a device",
        "": "is a directory",
        "/dev/zero": "is a pipe or a device",
        "~nosuchuser/x": "give the whole path",
        "latin": "is not UTF-8: byte 0xff",
        "blank": "is empty, expected a Jinja chat template",
        "escape": "holds a control character, U+001B",
        "long": "has 1048577 bytes",
        "gone": "cannot be read",
    }.items():
        with pytest.raises(InputError) as error:
            chats.make_chat(
                tokenizer_of(INST_TOKENS),
                family="mistral",
                template_file=path if path.startswith(("/", "~")) else tmp_path / path,
            )
        assert "chat.template_file = " in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("tokenizer_config.json", None, "is a pipe or a device"),
        ("tokenizer.json", None, "is a pipe or a device"),
        ("chat_template.jinja", None, "is a pipe or a device"),
        ("additional_chat_templates/x.jinja", None, "is a pipe or a device"),
        ("added_tokens.json", None, "is a pipe or a device"),
        ("merges.txt", None, "is a pipe or a device"),
        ("chat_template.jinja", "x" * (2**20 + 1), "has 1048577 bytes"),
        ("tokenizer_config.json", '{"a":' * 10**5, "nested too deep"),
        ("tokenizer_config.json", "[]", "holds list, expected an object"),
        ("tokenizer_config.json", '{"auto_map": 7}', "cannot read the tokenizer"),
        ("tokenizer_config.json", '{"bos_token": "\\ud800"}', "cannot read the tokenizer"),
        ("tokenizer_config.json", '{"model_max_length": "x"}', "cannot read the tokenizer"),
        ("tokenizer.json", "[" * 10**5, "nested too deep"),
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "is a git-lfs pointer"),
        ("tokenizer.json", "{}", "no object with a model"),
        (
            "tokenizer_config.json",
            '{"chat_template": [{"name": "default"}]}',
            "a list of objects with a name and a template",
        ),
    ],
)
def test_damaged_tokenizers_are_one_line(tmp_path, name, content, message):
    tokenizer_of(GEMMA_TOKENS, GEMMA).save_pretrained(tmp_path)
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.unlink(missing_ok=True)
    if content is None:
        os.mkfifo(file)
    else:
        file.write_text(content)
    with pytest.raises(InputError) as error:
        chats.load_tokenizer(tmp_path)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_panic_of_the_tokenizers_library_is_one_line(tmp_path):
    """Rust's panics are no Exception; a normaliser that writes between all letters is good for one."""
    tokenizer_of(GEMMA_TOKENS, GEMMA).save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    fields["normalizer"] = {"type": "Replace", "pattern": {"String": ""}, "content": "x" * 1000}
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    with pytest.raises(InputError, match="cannot read the tokenizer"):
        chats.load_tokenizer(tmp_path)


def test_turns_of_many_answers_are_those_of_each():
    # The second template writes more in front of an answer to come than in front of one that is there.
    for family in ("mistral", "gemma3_text"):
        chat, answers = chat_of(family), ["Sure", "Two\nlines, caf\u00e9."]
        assert chats.assistant_turns(chat, answers) == [chats.assistant_turn_ids(chat, text) for text in answers]
    assert chats.render_all(chat, PROMPTS[:2]) == tuple(chats.render(chat, prompt) for prompt in PROMPTS[:2])
    assert chats.assistant_turns(chat, []) == [] and chats.render_all(chat, []) == ()


def test_a_text_without_tokens_is_refused():
    inner = Tokenizer(models.WordLevel({"how": 0}, unk_token=None))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, chat_template="{{ messages[0].content }}")
    with pytest.raises(InputError, match="the tokenizer (has no tokens for|fails on)"):
        chats.make_chat(tokenizer, family="llama")
