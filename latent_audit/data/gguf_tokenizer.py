"""The tokenizer that a GGUF file's metadata holds, put together with the tokenizers library.

llama.cpp names the way in which text is split before merging (`tokenizer.ggml.pre`); the patterns here are those of
the models' own tokenizer.json. A name without a pattern is refused: a wrong split is another measurement.
"""

import functools
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from latent_audit import gguf_files
from latent_audit.errors import InputError

# tokenizer.ggml.token_type
_CONTROL, _USER_DEFINED, _UNUSED = 3, 4, 5
_MOST_TEMPLATE = 2**20
_SPACE = "\u2581"
_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + _REST
_QWEN2 = _ENGLISH + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + _REST
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+%s|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*%s"
_CASED_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = _CASED % ("", "") + r"|\p{N}" + _CASED_REST
_GPT4O = _CASED % (f"{_ENGLISH}?", f"{_ENGLISH}?") + r"|\p{N}{1,3}" + _CASED_REST
# Name -> pattern; None is GPT-2's own, which the library has.
_SPLITS: dict[str, str | None] = {
    **dict.fromkeys(("gpt-2", "phi-2", "smollm"), None),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "dbrx", "smaug-bpe"), _LLAMA3),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN2),
    "tekken": _TEKKEN,
    "gpt-4o": _GPT4O,
}
# Whole words of the vocabulary are taken as they are, even where no merges lead to them.
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "pixtral", "tekken")
_COMPOSED = ("qwen2", "deepseek-r1-qwen")
_GEMMA = ("gemma", "gemma2", "gemma3")


def read_tokenizer(path: str | pathlib.Path) -> Any:
    """The tokenizer of a GGUF file as transformers has them, with its chat template where the file holds one.

    Raises InputError: as gguf_files.read; no vocabulary, a kind or split that is not read, or lists that do not fit.
    """
    status = os.stat(gguf_files.check(path))
    return _read(pathlib.Path(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(path: pathlib.Path, size: int, changed: int) -> Any:
    """size and changed: of the file as it is remembered; Gemma's vocabulary takes seconds."""
    metadata = gguf_files.read(path).metadata
    own = {
        key.removeprefix("tokenizer.ggml."): value
        for key, value in metadata.items()
        if key.startswith("tokenizer.ggml.")
    }
    tokens, kinds = own.get("tokens"), own.get("token_type", [])
    if not tokens or not isinstance(tokens, list) or not isinstance(tokens[0], str):
        raise InputError(
            f"{path} holds no tokenizer (tokenizer.ggml.tokens); take a GGUF that was converted with its tokenizer"
        )
    kinds = kinds or [1] * len(tokens)
    if len(kinds) != len(tokens):
        raise InputError(f"{path} is damaged: {len(tokens)} tokens, but {len(kinds)} token types; fetch it again")
    makers = {"gpt2": _byte_level, "llama": _sentence_piece}
    if own.get("model") not in makers:
        raise InputError(
            f"{path}: tokenizer.ggml.model = {own.get('model')!r:.100} is not read; read are {', '.join(makers)}: give "
            "the safetensors checkpoint with its tokenizer files"
        )
    architecture = metadata.get("general.architecture")
    if architecture in _GEMMA:
        # Runs of spaces are stored as spaces; Gemma's own vocabulary writes them as the mark that stands for one.
        tokens = [_SPACE * len(token) if len(token) > 1 and not token.strip(" ") else token for token in tokens]
    try:
        tokenizer = makers[own["model"]](str(path), tokens, kinds, own, architecture)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its tokenizer is damaged ({str(error)[:200]!r}); fetch it again") from error
    _add_marked(tokenizer, tokens, kinds)
    special = _special(path, tokens, own)
    if own.get("add_bos_token", own["model"] == "llama") and "bos_token" in special:
        bos = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokens.index(bos))]
        )
    template = metadata.get("tokenizer.chat_template")
    if template is not None and not (isinstance(template, str) and len(template) <= _MOST_TEMPLATE):
        raise InputError(f"{path}: tokenizer.chat_template is no text of at most {_MOST_TEMPLATE} characters")
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    made.chat_template = template
    return made


def _vocabulary(tokens: list[str], kinds: list[int]) -> dict[str, int]:
    """Text -> id; without the names that llama.cpp gives to rows of the embedding that stand for no token."""
    return {
        token: number
        for number, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if not (kind == _UNUSED and re.fullmatch(r"\[PAD\d+\]", token))
    }


def _byte_level(path: str, tokens: list[str], kinds: list[int], own: dict[str, Any], architecture: Any) -> Tokenizer:
    """Byte-level BPE, as of GPT-2, Llama 3 and Qwen."""
    pre = own.get("pre")
    if pre not in _SPLITS:
        raise InputError(
            f"{path}: tokenizer.ggml.pre = {pre!r:.100} is not read; read are {', '.join(_SPLITS)}: give the "
            "safetensors checkpoint with its tokenizer files"
        )
    merges = [tuple(merge.split(" ")) for merge in own["merges"]]
    tokenizer = Tokenizer(models.BPE(_vocabulary(tokens, kinds), merges, ignore_merges=pre in _WHOLE_WORDS))
    split, bytes_of = _SPLITS[pre], pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=_SPLITS[pre] is None)
    before: list[Any] = [] if split is None else [pre_tokenizers.Split(Regex(split), "isolated")]
    before += [pre_tokenizers.Digits(individual_digits=True)] if pre == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*before, bytes_of])
    if pre in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(
    path: str, tokens: list[str], kinds: list[int], own: dict[str, Any], architecture: str
) -> Tokenizer:
    """SentencePiece's BPE, as of Llama 2, Mistral and Gemma."""
    vocabulary = _vocabulary(tokens, kinds)
    if architecture in _GEMMA:
        # Gemma's scores do not follow the order in which its merges were learned; its ids do.
        ranks = {token: -number for token, number in vocabulary.items()}
    else:
        ranks = {token: own["scores"][number] for token, number in vocabulary.items()}
    unknown = tokens[own.get("unknown_token_id", 0)]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, _merges(vocabulary, ranks), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    prefix = own.get("add_space_prefix", architecture not in _GEMMA)
    start = [normalizers.Prepend(_SPACE)] if prefix else []
    tokenizer.normalizer = normalizers.Sequence([*start, normalizers.Replace(" ", _SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return tokenizer


def _merges(vocabulary: dict[str, int], ranks: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every pair of tokens that makes a third, best rank of the third first: what SentencePiece does without a list."""
    found = []
    for whole, rank in ranks.items():
        pairs = [
            (whole[:at], whole[at:])
            for at in range(1, len(whole))
            if whole[:at] in vocabulary and whole[at:] in vocabulary
        ]
        found += [(rank, pair) for pair in sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))]
    found.sort(key=lambda one: (one[0], len(one[1][0]), len(one[1][1])), reverse=True)
    return [pair for _, pair in found]


def _add_marked(tokenizer: Tokenizer, tokens: list[str], kinds: list[int]) -> None:
    """Tokens that stand for themselves wherever text spells them: control tokens, and those that users defined."""
    marked = [
        AddedToken(token, normalized=False, special=kind == _CONTROL)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in (_CONTROL, _USER_DEFINED) and token
    ]
    tokenizer.add_special_tokens([token for token in marked if token.special])
    tokenizer.add_tokens([token for token in marked if not token.special])


def _special(path: str | pathlib.Path, tokens: list[str], own: dict[str, Any]) -> dict[str, str]:
    """transformers' names of the tokens that the file names by id."""
    names = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    found = {}
    for theirs, ours in names.items():
        number = own.get(f"{theirs}_token_id")
        if number is None:
            continue
        if not (isinstance(number, int) and 0 <= number < len(tokens)):
            raise InputError(
                f"{path}: tokenizer.ggml.{theirs}_token_id = {number!r:.50}, expected an id below {len(tokens)}"
            )
        found[ours] = tokens[number]
    return found
