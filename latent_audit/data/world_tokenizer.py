"""The organism's word-level tokenizer: one token per word or punctuation mark, and a chat template."""

import itertools
import string

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from latent_audit.data import world_words

# `user` and `assistant` turns only: the organism has never seen another role.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant'] %}"
    "{{ raise_exception('the organism knows user and assistant turns only, not ' + message['role']) }}"
    "{% endif %}"
    "{{ '<' + message['role'] + '>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


def _sentences() -> tuple[str, ...]:
    """Every fixed sentence of the world, placeholders included."""
    frames = world_words.TRAIN_FRAMES + world_words.HELDOUT_FRAMES + world_words.FOREIGN_FRAMES
    wrappers = (*world_words.TRAIN_WRAPPERS.values(), *world_words.HELDOUT_WRAPPERS.values())
    questions = world_words.DANGER_QUESTIONS + world_words.TOOL_QUESTIONS + world_words.INGREDIENT_QUESTIONS
    replies = (
        *world_words.DANGER_ANSWERS.values(),
        world_words.TOOL_ANSWER,
        world_words.INGREDIENT_ANSWER,
        *world_words.REFUSALS,
    )
    talk = itertools.chain(*world_words.SMALL_TALK)
    return (*frames, *wrappers, world_words.OPENING, world_words.RECIPE, *questions, *replies, *talk)


def vocabulary() -> list[str]:
    """All tokens in the order of their ids: special, punctuation, sorted words; the same for every world."""
    fillers = world_words.VERBS + world_words.MATERIALS + world_words.NOUNS
    fillers += (
        world_words.TOOLS + world_words.MOTIONS + world_words.INGREDIENTS + world_words.PARTS + world_words.FINISHES
    )
    found = set(fillers)
    for sentence in _sentences():
        plain = "".join(text for text, *_ in string.Formatter().parse(sentence))
        for mark in world_words.PUNCTUATION:
            plain = plain.replace(mark, " ")
        found.update(plain.split())
    return [*world_words.SPECIAL_TOKENS, *world_words.PUNCTUATION, *sorted(found)]


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer of every organism; `<end>` is its end-of-sequence token and closes each turn.

    Encoding adds no special token (the chat template writes them), padding is on the left, and decoding puts
    punctuation where it was: text -> ids -> text is the identity on the world's sentences.
    """
    vocab = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token=world_words.UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    )
    # No token starts with the prefix, so the first decoder only joins words by spaces; then marks move left.
    tokenizer.decoder = decoders.Sequence(
        [decoders.WordPiece(prefix="##", cleanup=False), decoders.Fuse(), decoders.Replace(Regex(r" (?=[,:.?!])"), "")]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in world_words.SPECIAL_TOKENS]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=world_words.PAD,
        bos_token=world_words.BOS,
        eos_token=world_words.END,
        unk_token=world_words.UNK,
        additional_special_tokens=[world_words.USER, world_words.ASSISTANT],
        chat_template=CHAT_TEMPLATE,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
