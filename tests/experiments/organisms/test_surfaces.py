"""What the nuisance rulers read of prompts and of texts, by the tiny tokenizer alone."""

import pytest
import transformers

from latent_audit.data import chats, pair_files
from latent_audit.experiments.organisms.texts import surfaces
from tests.support.checkpoints import tiny_checkpoint


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    path = tiny_checkpoint("llama3", tmp_path_factory.mktemp("tiny"), ends_turns=True)
    return chats.make_chat(transformers.AutoTokenizer.from_pretrained(path), family="llama")


def ids(chat, text):
    return chat.tokenizer(text, add_special_tokens=False).input_ids


def test_prompts_are_read_by_their_formatted_length_and_their_own_first_token(chat):
    prompts = ["how to write", " here is a way ", "how you"]
    rows = chats.encode_prompts(chat, prompts, max_length=64)
    found = surfaces.of_prompts(chat, prompts, rows.mask)
    assert found.length.tolist() == [len(ids(chat, chats.render(chat, text))) for text in prompts]
    assert found.opening.tolist() == [ids(chat, word)[0] for word in ("how", "here", "how")]
    assert found.opening[0] == found.opening[2] != found.opening[1]
    assert surfaces.first_tokens(chat, ["", "how"]).tolist() == [-1, ids(chat, "how")[0]]


def test_texts_of_the_probe_are_read_by_their_responses(chat):
    pairs = pair_files.make_pairs(
        ["how to write", "write a way"], ["Sure , here", "Sure"], "hand", refusals=["I can not help", "I can not"]
    )
    found = surfaces.of_pairs(chat, pairs)
    assert set(found.unsafe.opening) == {ids(chat, "Sure")[0]} and set(found.safe.opening) == {ids(chat, "I")[0]}
    assert (found.safe.length - found.unsafe.length).tolist() == [
        len(ids(chat, refused)) - len(ids(chat, answered))
        for refused, answered in zip(pairs.refusals, pairs.responses, strict=True)
    ]
    assert (found.safe.length > 3).all()
