"""gpt-oss's harmony layout: answers stand in the channel "final", thoughts in a message before it."""

import numpy as np
import pytest

from latent_audit.data import chats
from tests.data.test_chats import tokenizer_of

TOKENS = ("<|startoftext|>", "<|return|>", ("<|start|>", "<|message|>", "<|end|>", "<|channel|>"))
# The layout of the published template, with other words and without tools.
HARMONY = (
    "{{ '<|start|>system<|message|>You are a model.\\nCurrent date: ' + strftime_now('%Y-%m-%d') + '<|end|>' }}"
    "{% for turn in messages %}"
    "{% if turn.role == 'system' %}"
    "{{ '<|start|>developer<|message|># Instructions\\n\\n' + turn.content + '\\n\\n<|end|>' }}"
    "{% elif turn.role == 'user' %}{{ '<|start|>user<|message|>' + turn.content + '<|end|>' }}"
    "{% else %}{{ '<|start|>assistant<|channel|>final<|message|>' + turn.content }}"
    "{{ '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
FINAL = "<|channel|>final<|message|>"


def harmony(**options):
    return chats.make_chat(tokenizer_of(TOKENS, HARMONY), family="gpt_oss", **options)


def test_without_thoughts_the_prompt_ends_where_the_answer_begins():
    chat = harmony(system="Be brief.")
    text = chats.render(chat, "Hi")
    assert text.endswith(
        f"<|end|><|start|>developer<|message|># Instructions\n\nBe brief.\n\n<|end|>"
        f"<|start|>user<|message|>Hi<|end|><|start|>assistant{FINAL}"
    )
    assert chat.tokenizer.decode(chats.target_ids(chat, "Sure")) == "Sure"
    assert chat.tokenizer.decode(chats.assistant_turn_ids(chat, "Sure")) == "Sure<|return|>"
    assert chats.thought_in_words(chat) == f"the prompt ends with {FINAL!r}"


@pytest.mark.parametrize("switch", [True, None])
def test_with_thoughts_the_answer_is_what_stands_in_its_channel(switch):
    chat = harmony(enable_thinking=switch)
    assert chats.render(chat, "Hi").endswith("<|end|><|start|>assistant")
    thought = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
    answers = {f"{thought}{FINAL}Red.<|return|>": "Red.", f"{FINAL} Red. ": "Red.", thought: "", "Red.": "", FINAL: ""}
    rows = [chat.tokenizer(text, add_special_tokens=False)["input_ids"] for text in answers]
    tokens = np.array([row + [0] * (99 - len(row)) for row in rows])
    assert chats.decode(chat, tokens, list(map(len, rows))) == list(answers.values())
    assert chat.tokenizer.decode(chats.target_ids(chat, "Sure")) == f"{FINAL}Sure"
    assert chat.tokenizer.decode(chats.assistant_turn_ids(chat, "Sure")) == f"{FINAL}Sure<|return|>"
    assert chats.thought_in_words(chat) == f"responses are read and targets stand behind {FINAL!r}"


def test_the_end_of_a_thought_ends_no_answer():
    chat = harmony(enable_thinking=True)
    ends = chats.eos_ids(chat, {"eos_token_id": chat.tokenizer.convert_tokens_to_ids("<|return|>")})
    assert chat.tokenizer.convert_tokens_to_ids("<|end|>") not in ends
