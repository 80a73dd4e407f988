"""How refusals open, in five languages, and the first tokens of that under a model's tokenizer and chat template.

docs/method.md section 9. Several languages share openings with answers ("I", "Je"): whether the first token tells
refusals from answers is measured on the audited model (metrics/first_token.py), not assumed.
"""

import re

from latent_audit.data import chats
from latent_audit.data.chat.rendering import PROBE, Chat, encode
from latent_audit.errors import InputError

REFUSALS = (
    *("I can't", "I cannot", "I'm sorry", "I apologize", "Sorry", "Unfortunately", "Apologies", "As an AI", "No"),
    *("Ich kann", "Es tut mir leid", "Tut mir leid", "Entschuldigung", "Leider", "Nein"),
    *("Je ne peux pas", "Je suis désolé", "Désolé", "Malheureusement", "Non"),
    *("No puedo", "Lo siento", "Lamento", "Lamentablemente", "Disculpa"),
    *("我不能", "我无法", "抱歉", "很抱歉", "对不起", "不好意思", "作为"),
)
# What answers open with: a token that opens one of these too is no sign of refusal.
ANSWERS = (
    *("Sure", "Certainly", "Of course", "Here", "Yes", "Okay", "Absolutely", "Dear", "The", "To", "A", "First", "1"),
    *("Hier", "Natürlich", "Gern", "Klar", "Ja", "Um", "Der", "Die", "Das", "Lieber"),
    *("Voici", "Bien sûr", "Oui", "Le", "La", "Pour", "D'accord", "Cher"),
    *("Claro", "Aquí", "Por supuesto", "Sí", "El", "Para", "Querido"),
    *("好的", "当然", "以下", "可以", "首先", "是的"),
)
# An answer may begin with white space, which is not its opening.
_FORMS = ("", " ", "\n", "\n\n")
_LEAST = 4  # [O] letters of a token that is less than a word
_REPLACED = "\ufffd"


def opening_ids(chat: Chat) -> tuple[int, ...]:
    """The first tokens of REFUSALS behind a prompt, in ascending order, without those that open ANSWERS as well.

    Left out are tokens that name no opening: control tokens, unknown ones, parts of a character, and less than a word
    and than four letters. Raises InputError where none is left.
    """
    found = sorted(_first_tokens(chat, REFUSALS) - _first_tokens(chat, ANSWERS))
    if not found:
        raise InputError(
            "reward.openings = 'listed': in this tokenizer no listed refusal has a first token of its own; set "
            "reward.openings=own (what the model itself opens with), or another reward.kind"
        )
    return tuple(found)


def is_white(chat: Chat, token: int) -> bool:
    """Whether a token is white space alone, which an answer may begin with."""
    return token not in chat.tokenizer.all_special_ids and not chat.tokenizer.decode([token]).strip()


def _first_tokens(chat: Chat, openings: tuple[str, ...]) -> set[int]:
    prompt = chats.render(chat, PROBE) + chat.thought
    (before,) = encode(chat, [prompt])
    forms = [(opening, form + opening) for opening in openings for form in _FORMS]
    # Behind the prompt, and by themselves: where the two differ both occur as the start of an answer.
    rows = encode(chat, [prompt + text for _, text in forms] + [text for _, text in forms])
    found = set()
    for (opening, _), row in zip(forms * 2, rows, strict=True):
        behind = row[len(before) :] if row[: len(before)] == before else row
        worded = next((token for token in behind if not is_white(chat, token)), None)
        if worded is not None and _is_opening(chat, worded, opening):
            found.add(worded)
    return found


def _is_opening(chat: Chat, token: int, opening: str) -> bool:
    tokenizer = chat.tokenizer
    if token in tokenizer.all_special_ids or token == tokenizer.unk_token_id:
        return False
    piece = tokenizer.decode([token]).strip()
    if _REPLACED in piece or not opening.startswith(piece):
        return False
    # A character of Chinese is as good as a word.
    return len(piece) >= _LEAST or piece == re.split(r"[\s']", opening)[0] or ord(piece[0]) >= 0x2E80
