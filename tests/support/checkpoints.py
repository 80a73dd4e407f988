"""A tiny random checkpoint of any family with a tokenizer and a template of its own, as a user would bring one."""

import tokenizers
import transformers

from tests.support import tiny

WORDS = "Sure , here is how to a the I can not help with that write me my of and in for what you . ?".split()
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|> ' + message['content'] + ' ' }}END{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# The end token behind the assistant's turns alone, or behind every turn.
ENDS = {False: "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}", True: "{{ eos_token }}"}


def tiny_checkpoint(case, path, *, ends_turns=False):
    """Write one with a word tokenizer that knows the target and little else; returns `path`.

    ends_turns: the template puts the end token behind every turn.
    """
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<|user|>", "<|assistant|>"]
    vocabulary = {word: index for index, word in enumerate([*special, *dict.fromkeys(WORDS)])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    inner.add_special_tokens(special)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
        chat_template=TEMPLATE.replace("END", ENDS[ends_turns]),
    )
    tiny.model(case).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path
