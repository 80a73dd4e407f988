"""Styles, thoughts, ends of turns and template files: what a config chooses, each against text written by hand."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from absl import logging
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from configs.common import base_config
from latent_audit.data import chats, tokenizer_files
from latent_audit.data.chat import thoughts
from latent_audit.errors import InputError
from latent_audit.experiments.setup import subjects
from latent_audit.reports import outputs
from tests.data.layouts import LAYOUTS
from tests.data.test_chats import GEMMA, GEMMA_TOKENS, INST, INST_TOKENS, QWEN2, QWEN3, QWEN_TOKENS, tokenizer_of
from tests.data.test_published_layouts import in_this_process as in_this_process
from tests.data.test_published_layouts import tiny
from tests.support.refusals import refused

THINK = ("<think>", "</think>")
# QwQ and R1: the thought is opened whatever the switch says, and left out of answers.
OPENS = QWEN2.replace("{{ '<|im_start|>assistant\\n' }}", "{{ '<|im_start|>assistant\\n<think>\\n' }}")
PROMPT = "<|im_start|>system\nYou are helpful.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def warned(monkeypatch):
    lines = []
    monkeypatch.setattr(logging, "warning", lambda text, *values: lines.append(text % values))
    return lines


def thinker(template, *, special=True, **options):
    bos, eos, others = QWEN_TOKENS
    tokenizer = tokenizer_of((bos, eos, (*others, *(THINK if special else ()))), template)
    return chats.make_chat(tokenizer, family="qwen2", **options)


# Styles.


def test_a_style_that_the_checkpoint_does_not_write_is_warned_of(warned):
    chat = chats.make_chat(tokenizer_of(INST_TOKENS, INST), family="mistral", style="chatml")
    # BOS as the checkpoint's own template has it.
    assert chats.render(chat, "Hi") == "<s><|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert len(warned) == 2 and "'<|im_start|>user\\n', which the checkpoint's own template does not" in warned[0]
    assert "chat.style=chatml writes <|im_start|>, <|im_end|>, no single special token" in warned[1]
    warned.clear()
    chats.make_chat(tokenizer_of(QWEN_TOKENS, QWEN2), family="llama", style="chatml")
    assert not warned


def test_a_fine_tune_of_llama_in_chatml_is_written_in_chatml():
    tokens = (
        "<|begin_of_text|>",
        "<|eot_id|>",
        ("<|start_header_id|>", "<|end_header_id|>", "<|im_start|>", "<|im_end|>"),
    )
    chat = chats.make_chat(tokenizer_of(tokens, QWEN2), family="llama", preset="paper")
    assert chat.style == "chatml" and chats.render(chat, "Hi") == PROMPT[PROMPT.index("<|im_start|>user") :]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"style": "alpaca"}, "chat.style = 'alpaca', expected auto or one of llama3, llama2, mistral, chatml, gemma"),
        ({"style": "chatml", "template_file": "x.jinja"}, "'x.jinja' and chat.style=chatml exclude each other"),
        ({"closing": "done"}, "chat.closing = 'done', expected a text that ends a thought with </think>"),
        ({"closing": "</think><think>"}, "expected a text that ends a thought"),
        ({"style": "mistral", "system": "Be brief."}, "the markers of chat.style=mistral have no system turn"),
        ({"system": 5}, "chat.system = 5, expected a text"),
    ],
)
def test_bad_choices_are_one_line(options, message):
    with pytest.raises(InputError) as error:
        chats.make_chat(tokenizer_of(INST_TOKENS, INST), family="mistral", **options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_system_turn_that_is_dropped_is_refused():
    dropping = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    with pytest.raises(InputError, match="it is not in the prompt 'Name a colour.'"):
        chats.make_chat(tokenizer_of(INST_TOKENS, dropping), family="mistral", system="Be brief.")
    with pytest.raises(InputError, match="the chat template has no system turn: .*no system turn"):
        chats.make_chat(tokenizer_of(GEMMA_TOKENS, GEMMA), family="gemma2", system="Be brief.")


# Thoughts.


@pytest.mark.parametrize("closing", [thoughts.CLOSING, "Enough.</think>"])
def test_a_thought_that_the_template_opens_is_ended(closing):
    chat = thinker(OPENS, closing=closing)
    assert chats.render(chat, "Hi") == f"{PROMPT}<think>\n{closing}"
    target = chats.target_ids(chat, "Sure")
    assert chat.tokenizer.decode(target) == "Sure"
    assert chat.tokenizer.decode(chats.assistant_turn_ids(chat, "Sure")) == "Sure<|im_end|>"
    assert chats.thought_in_words(chat) == f"the template opens a thought, which {closing!r} ends"
    assert (
        chats.describe(chat)["template_sha256"] != chats.describe(thinker(OPENS, closing="</think>"))["template_sha256"]
    )


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("switch", [True, None])
@pytest.mark.parametrize(
    "template, texts",
    [
        (OPENS, {"Hm.</think>\n\nRed.": "Red.", "Hm, it is": "", "Red.": "", "</think>": ""}),
        (QWEN3, {"<think>\nHm.\n</think>\n\nRed.": "Red.", "<think>\nHm": "", "Red.": "Red."}),
    ],
)
def test_responses_are_read_behind_their_thought(template, texts, switch, special):
    chat = thinker(template, special=special, enable_thinking=switch)
    rows = [chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    tokens = np.array([row + [0] * (99 - len(row)) for row in rows])
    assert chats.decode(chat, tokens, list(map(len, rows))) == list(texts.values())
    opened = template is OPENS
    empty = "\n</think>\n\n" if opened else "<think>\n\n</think>\n\n"
    decoded = chat.tokenizer.decode(chats.target_ids(chat, "Sure, here is"))
    assert decoded == f"{empty}Sure, here is"
    assert chat.tokenizer.decode(chats.target_ids(chat, "Sure, here is", most=4)) == f"{empty}Sure"
    assert chat.tokenizer.decode(chats.assistant_turn_ids(chat, "Sure")) == f"{empty}Sure<|im_end|>"
    assert "read behind </think>" in chats.describe(chat)["thought"]


def test_no_thought_is_spoken_of_where_there_is_none():
    for chat in (thinker(QWEN3), thinker(QWEN2), thinker(QWEN2, enable_thinking=True)):
        assert chats.describe(chat)["thought"] == "none" and not chat.behind_thought
    # Words about thoughts in a system turn open none.
    told = QWEN2.replace("You are helpful.", "Think between <think> and the end.")
    assert thinker(told).closing == ""


# Ends of turns, ids.


def test_what_stands_behind_the_first_end_of_turn_is_no_target():
    layout = LAYOUTS["Llama 3, first"]
    chat = chats.make_chat(tiny(layout), family="llama")
    # One whose letters occur in the header that the template writes unasked behind it.
    for answer in ("Sure", "assistant"):
        assert chat.tokenizer.decode(chats.assistant_turn_ids(chat, answer)) == f"{answer}<|eot_id|>"


def test_end_tokens_are_those_of_every_file():
    tokens = ("<s>", "</s>", ("<end>", "<|im_end|>"))
    chat = chats.make_chat(tokenizer_of(tokens, INST.replace("eos_token", "'<end>'")), family="mistral", vocab_size=260)
    eos, end, known = (chat.tokenizer.convert_tokens_to_ids(token) for token in ("</s>", "<end>", "<|im_end|>"))
    assert chats.eos_ids(chat, {"eos_token_id": 7}, (8, 9)) == (7, 8, 9, eos, end, known)
    with pytest.raises(InputError, match=r"config.json: eos_token_id = \(999,\), expected a token id below"):
        chats.eos_ids(chat, None, (999,))


def test_a_plain_token_beyond_the_table_is_refused():
    tokenizer = tokenizer_of(INST_TOKENS, INST)
    tokenizer.add_tokens(["colour"])
    with pytest.raises(InputError, match="writes 'colour' as id 258, but the model has vocab_size = 258"):
        chats.make_chat(tokenizer, family="mistral", vocab_size=258)


def test_variants_differ_by_the_ids_of_what_is_read():
    def chat(template=INST, tokens=INST_TOKENS):
        return chats.make_chat(tokenizer_of(tokens, template), family="mistral")

    base = chat()
    # A control token more, or the same text by another template, is no difference.
    assert chats.difference(base, chat(tokens=("<s>", "</s>", ("<more>",)))) is None
    assert chats.difference(base, chat("{# told apart #}" + INST)) is None
    assert chats.difference(base, chat(INST.replace("[INST] ", "[INST]"))) == chats.TEMPLATE
    # [INST] is one token of the other: the same text in other ids.
    other = chat(tokens=("<s>", "</s>", ("[INST]",)))
    assert chats.difference(base, other) == chats.TOKENIZER
    assert chats.template_sha256(base) == chats.template_sha256(other)
    assert chats.ids_sha256(base) != chats.ids_sha256(other)


def test_readings_that_differ_behind_control_tokens_are_seen(tmp_path, warned):
    """As transformers' LlamaTokenizer does: the file's ids count."""
    inner = tokenizer_of(INST_TOKENS, INST)
    inner.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "tokenizer.json").read_text())
    for token in fields["added_tokens"]:
        # White space behind BOS and EOS belongs to them: plain text is split alike.
        token["rstrip"] = True
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    filed = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    text = "<s> Red</s> Blue"
    assert filed.encode(text, add_special_tokens=False).ids != inner(text, add_special_tokens=False)["input_ids"]
    assert [filed.encode(probe, add_special_tokens=False).ids for probe in tokenizer_files.PROBES] == [
        inner(probe, add_special_tokens=False)["input_ids"] for probe in tokenizer_files.PROBES
    ]
    found = tokenizer_files._as_filed(tmp_path, inner)
    assert found(text, add_special_tokens=False)["input_ids"] == filed.encode(text, add_special_tokens=False).ids
    assert any("otherwise than tokenizer.json" in line for line in warned)


# Files.

# As collections of templates publish them: laid out for people.
LAID_OUT = """{% if messages[0]['role'] == 'system' %}
    {% set offset = 1 %}
{% else %}
    {% set offset = 0 %}
{% endif %}

{% for message in messages %}
    {% if message['role'] == 'user' %}
        {{ bos_token + '[INST] ' + message['content'] | trim + ' [/INST]' }}

    {% elif message['role'] == 'assistant' %}
        {{ ' ' + message['content'] | trim + ' ' + eos_token }}
    {% endif %}
{% endfor %}
"""


def test_a_template_laid_out_for_people_is_read_without_its_layout(tmp_path, warned):
    tokenizer, file = tokenizer_of(INST_TOKENS), tmp_path / "llama-2.jinja"
    file.write_text(LAID_OUT)
    chat = chats.make_chat(tokenizer, family="llama", template_file=file)
    assert chats.render(chat, "Hi") == "<s>[INST] Hi [/INST]"
    assert tokenizer.decode(chats.assistant_turn_ids(chat, "Sure")) == " Sure </s>"
    assert len(warned) == 1 and "blank lines and indentation would be written into every prompt" in warned[0]
    # One that strips its own white space is what it is, line breaks inside of its texts too.
    file.write_text(LAID_OUT.replace("{%", "{%-").replace("{{ ", "{{- ").replace("[INST] '", "[INST]\n'"))
    plain = chats.make_chat(tokenizer, family="llama", template_file=file)
    assert chats.render(plain, "Hi").startswith("<s>[INST]\nHi [/INST]") and len(warned) == 1
    file.write_text("  {{ '  ' }}\n" + LAID_OUT)
    with pytest.raises(InputError, match="llama-2.jinja': its prompts start with white space"):
        chats.make_chat(tokenizer, family="llama", template_file=file)


def sentencepiece_model(path):
    """A tiny SentencePiece model, trained here."""
    sentencepiece = pytest.importorskip("sentencepiece")
    words = ["name a colour", "red for one", "how to help", "the colour red", "one name", "help me"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_prefix=str(path / "tokenizer"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return sentencepiece.SentencePieceProcessor(str(path / "tokenizer.model"))


@pytest.mark.parametrize("name", ["LlamaTokenizer", "PreTrainedTokenizerFast", None])
def test_a_tokenizer_model_alone_is_read_as_sentencepiece_has_it(name, tmp_path):
    own = sentencepiece_model(tmp_path)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": INST}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | ({"tokenizer_class": name} if name else {})))
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    chat = chats.make_chat(chats.load_tokenizer(tmp_path), family="llama", vocab_size=own.vocab_size())
    assert isinstance(chat.tokenizer, PreTrainedTokenizerFast)
    prompt = [own.bos_id(), *own.encode("[INST] name a colour [/INST]")]
    assert chats.encode_prompts(chat, ["name a colour"], max_length=99).tokens[0].tolist() == prompt
    turn = [*own.encode("[INST] Name a colour. [/INST] red"), own.eos_id()]
    assert [*own.encode("[INST] Name a colour. [/INST]"), *chats.assistant_turn_ids(chat, "red")] == turn


def test_tekken_alone_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "tekken.json").write_text('{"config": {}, "vocab": []}')
    (tmp_path / "config.json").write_text('{"model_type": "mistral"}')
    message = refused(lambda: chats.load_tokenizer(tmp_path))
    assert "holds tekken.json alone, which is not read: copy tokenizer.json and tokenizer_config.json" in message


def test_what_is_done_about_thoughts_stands_in_the_report():
    record = {"variants": {"base": {"thought": "read behind </think>"}, "harmful": {"thought": "none"}}, "arch": "a"}
    assert outputs.thoughts_of(record) == {"thought, base": "read behind </think>"}
    assert outputs.thoughts_of({"llama": record}) == outputs.thoughts_of(record) and outputs.thoughts_of(None) == {}
    config = base_config("lvs")
    config.chat.closing, config.chat.system = r"\n\n</think>", r"One.\nTwo."
    cfg = SimpleNamespace(family="qwen2", vocab_size=10**6)
    bos, eos, others = QWEN_TOKENS
    chat = subjects.make_chat(tokenizer_of((bos, eos, (*others, *THINK)), OPENS), cfg, config)
    assert chats.render(chat, "Hi").startswith("<|im_start|>system\nOne.\nTwo.<|im_end|>\n")
    assert chats.render(chat, "Hi").endswith("<think>\n\n\n</think>")
