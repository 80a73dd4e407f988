"""The assistant's turn as tokens: what a model is trained on, what an attack aims at, and where both end."""

from collections.abc import Iterable
from typing import NamedTuple

from latent_audit.data.chat import thoughts, turn_ends
from latent_audit.data.chat.rendering import ANSWER, PROBE, Chat, check_frames, encode, write, write_prompts
from latent_audit.data.chat_templates import ADVICE
from latent_audit.errors import InputError


class Frame(NamedTuple):
    """What stands around an answer behind a formatted prompt; end_id: the token that closes the turn."""

    front: str
    back: str
    end_id: int


def assistant_turns(chat: Chat, texts: Iterable[str]) -> list[tuple[int, ...]]:
    """Token ids of each text as the assistant's whole turn, up to and with the first token that ends it.

    They are what the template writes for a conversation with that answer beyond the formatted prompt. What stands
    behind the end-of-turn token, such as the next turn's header that some templates write unasked, is left out; where
    responses are read behind a thought, an empty one stands in front. docs/method.md section 2.

    Raises InputError if the template refuses an assistant turn, changes the text, writes other text around it than
    around any answer, or writes no end-of-turn token.
    """
    texts = list(texts)
    conversations = [[("user", PROBE), ("assistant", text)] for text in (ANSWER, *texts)]
    probe, *wholes = write(chat, conversations, add_generation_prompt=False)
    frame = _frame(chat, probe)
    for text, whole in zip(texts, wholes, strict=True):
        if not text.strip() or text.strip() not in whole:
            raise InputError(f"the chat template does not write the answer {text!r:.200} as it is; {ADVICE}")
    check_frames(texts, wholes, probe, ANSWER, "assistant")
    # As the template has them: some take off outer white space.
    start = probe.index(ANSWER)
    written = [whole[start : len(whole) - len(probe) + start + len(ANSWER)] for whole in wholes]
    prompt = write_prompts(chat, [PROBE])[0]
    turns = [frame.front + answer + frame.back for answer in written]
    prompt_ids, *rows = encode(chat, [prompt, *(prompt + turn for turn in turns)])
    if all(row[: len(prompt_ids)] == prompt_ids for row in rows):
        # Not encoded alone: SentencePiece would put a further space before an answer.
        return [tuple(row[len(prompt_ids) :]) for row in rows]
    return [tuple(row) for row in encode(chat, turns)]


def end_id(chat: Chat) -> int | None:
    """The token with which the template ends an assistant's turn; None where it writes no such turn."""
    try:
        probe = write(chat, [[("user", PROBE), ("assistant", ANSWER)]], add_generation_prompt=False)[0]
    except InputError:
        return None
    back = probe.partition(ANSWER)[2]
    cut = turn_ends.cut_behind(chat.tokenizer, back, encode(chat, [back])[0])
    return cut and cut[1]


def _frame(chat: Chat, probe: str) -> Frame:
    """probe: a conversation with ANSWER as the template writes it."""
    before, found, back = probe.partition(ANSWER)
    if not found or ANSWER in back:
        raise InputError(f"the chat template does not write the answer {ANSWER!r} as it is; {ADVICE}")
    cut = turn_ends.cut_behind(chat.tokenizer, back, encode(chat, [back])[0])
    if cut is None:
        raise InputError(f"the chat template closes the assistant's turn with no end-of-turn token; {ADVICE}")
    prompt = write(chat, [[("user", PROBE)]], add_generation_prompt=True)[0]
    if before.startswith(prompt + chat.closing):
        front = before[len(prompt + chat.closing) :]
    elif before.startswith(prompt) and not chat.closing:
        front = before[len(prompt) :]
    else:
        # The prefix opens a thought that the template leaves out of answers: nothing stands between the two.
        front = ""
    ended = thoughts.END in front or front.endswith(chat.thought)
    return Frame(front if ended else chat.thought + front, *cut)
