"""First tokens of refusal openings under tokenizers of several kinds, against transformers' own ids behind a prompt."""

import pytest
import tokenizers
import transformers
from tokenizers import decoders, models, pre_tokenizers

from latent_audit.data import chats, refusal_openings
from latent_audit.errors import InputError

TEMPLATE = "{% for m in messages %}<u>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<a>BEHIND{% endif %}"
SPECIAL = ["<s>", "</s>", "<unk>", "<u>", "<a>"]


def chat_of(inner, *, behind=""):
    inner.add_special_tokens(SPECIAL)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=TEMPLATE.replace("BEHIND", behind),
    )
    return chats.make_chat(tokenizer, family="llama", vocab_size=None, preset="default")


def byte_chat(words, *, behind=""):
    """A byte-level tokenizer with merges that build each of `words` (ASCII or not) from left to right."""
    space = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    vocabulary = {letter: index for index, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = []
    for word in words:
        letters = space.pre_tokenize_str(word)[0][0]
        for end in range(2, len(letters) + 1):
            if letters[:end] not in vocabulary:
                vocabulary[letters[:end]] = len(vocabulary)
                merges.append((letters[: end - 1], letters[end - 1]))
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    inner.pre_tokenizer, inner.decoder = space, decoders.ByteLevel()
    return chat_of(inner, behind=behind)


def words_of(chat):
    return {chat.tokenizer.decode([token]) for token in refusal_openings.opening_ids(chat)}


def test_openings_are_first_tokens_of_refusals_with_and_without_a_space():
    found = words_of(byte_chat([" Sorry", "Sorry", "Unfortunately", "\n\n", "抱歉"]))
    assert {"Sorry", " Sorry", "Unfortunately", "抱歉", "I"} <= found
    # "S" opens "Sure" too, and a letter of a longer word names nothing.
    assert not {"S", "U", "N", "D", "\n\n", " "} & found


def test_a_first_token_behind_the_prompt_is_the_one_transformers_writes():
    chat = byte_chat([" Sorry", "Sorry", "Unfortunately"], behind="\n")
    prompt = chats.render(chat, "Name a colour.")
    before = chat.tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = chat.tokenizer(prompt + "Unfortunately, no", add_special_tokens=False)["input_ids"]
    assert after[: len(before)] == before and after[len(before)] in refusal_openings.opening_ids(chat)


def test_what_opens_an_answer_as_well_is_left_out():
    # "Le" is the start of "Leider" and of the French article.
    assert not {"Le", "L"} & words_of(byte_chat(["Le", "Sorry"]))
    assert "Leider" in words_of(byte_chat(["Leider", "Le"]))


def test_parts_of_a_character_and_unknown_words_name_no_opening():
    # Without the merges a Chinese character is three bytes, of which the first opens many.
    found = words_of(byte_chat(["Sorry"]))
    assert not any("\ufffd" in word for word in found)
    known = {word: index for index, word in enumerate([*SPECIAL, "I", "Sure", "Sorry", ",", "but"])}
    inner = tokenizers.Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    assert words_of(chat_of(inner)) == {"I", "Sorry"}


def test_a_sentencepiece_space_belongs_to_the_word():
    pieces = [*SPECIAL, "\u2581I", "\u2581", "I", "\u2581Sorry", "\u2581Sure", "Sorry", "Sure"]
    inner = tokenizers.Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace()
    chat = chat_of(inner)
    named = {chat.tokenizer.convert_ids_to_tokens(token) for token in refusal_openings.opening_ids(chat)}
    assert {"\u2581Sorry"} <= named <= {"\u2581I", "I", "\u2581Sorry", "Sorry"}
    assert refusal_openings.is_white(chat, pieces.index("\u2581"))
    assert not refusal_openings.is_white(chat, pieces.index("\u2581I"))
    assert not refusal_openings.is_white(chat, pieces.index("</s>"))


def test_a_tokenizer_without_any_is_refused_in_one_line():
    known = {word: index for index, word in enumerate([*SPECIAL, "Sure", "red", "blue"])}
    inner = tokenizers.Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(InputError, match=r"reward\.openings = 'listed'.*reward\.openings=own") as caught:
        refusal_openings.opening_ids(chat_of(inner))
    assert str(caught.value).isprintable()
