"""The tokenizer of a checkpoint directory: which files it is read from, and whether its ids are the model's."""

import functools
import logging as standard_logging
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import transformers.utils.logging
from absl import logging
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from latent_audit import gguf_files, user_files
from latent_audit.data import gguf_tokenizer
from latent_audit.errors import InputError
from latent_audit.text import printable

_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")
# What transformers may open besides; a pipe among them would be waited for.
_SETTINGS = (
    *("config.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.json", "processor_config.json"),
)
_OTHERS = ("merges.txt", "spm.model", "sentencepiece.model", "sentencepiece.bpe.model", "tiktoken.model")
_TEMPLATES = ("chat_template.jinja", "additional_chat_templates/*.jinja")
# The longest published vocabulary has 33 MB, settings 1 MB and templates 20 KB.
_MOST_VOCABULARY, _MOST_SETTINGS, _MOST_TEMPLATE = 2**29, 2**24, 2**20
_AGAIN = "copy the tokenizer files that the model was published with"
# Words, digits, punctuation, white space and other scripts: where readings of one tokenizer would differ.
# Beside them all control tokens of published tokenizers but pictures' and unused ones (Gemma has 6000).
MOST_CONTROL = 256
PROBES = (
    "Write  12 lines, don't stop!\n\tf(x) = 3.5; \u00bfqu\u00e9? \u4f60\u597d",
    " I'LL say: 1234567\r\n\n e\u0301\u00a0\U0001f642 </s >[INST]",
)


def load_tokenizer(path: str | pathlib.Path) -> Any:
    """The tokenizer of a local checkpoint directory or GGUF file; no code of the checkpoint is run.

    Where transformers reads it otherwise than its tokenizer.json has it, the file counts, and the log says so. A
    tokenizer.model alone is read as SentencePiece has it, behind control tokens too.

    Raises InputError: not a directory, no tokenizer files in it, or files that transformers cannot read or that no
    tokenizer has (pipes, git-lfs pointers, endless or deep ones).
    """
    path = user_files.path_of("the checkpoint", path)
    if gguf_files.is_gguf(path) and not os.path.isdir(path):
        _take_over_messages()
        return gguf_tokenizer.read_tokenizer(path)
    if not os.path.isdir(path):
        raise InputError(f"no such directory: {path}; expected a checkpoint directory with a tokenizer")
    _check_files(path)
    _take_over_messages()
    found = [name for name in _VOCABULARIES if os.path.isfile(path / name)]
    if found == ["tekken.json"]:
        raise InputError(
            f"{path} holds tekken.json alone, which is not read: copy tokenizer.json and tokenizer_config.json of the "
            "same model beside it"
        )
    if not found:
        raise InputError(
            f"{path} holds no tokenizer; expected one of {', '.join(_VOCABULARIES)}: copy the "
            "tokenizer files of the model it was made from"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        tokenizer = _as_filed(path, tokenizer)
    except (KeyboardInterrupt, SystemExit):
        raise
    except (
        BaseException
    ) as error:  # Damaged files surface as many different exceptions; Rust's panics are no Exception.
        raise _unreadable(path, error) from error
    _check_certain(path, tokenizer)
    return tokenizer


def _check_certain(path: pathlib.Path, tokenizer: Any) -> None:
    """InputError for a tokenizer that splits one text in several ways."""
    inner = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    dropout = getattr(inner, "dropout", None)
    if dropout:
        raise InputError(
            f"{path}: tokenizer.json has dropout = {dropout!r}, which splits a text at random; set it to null"
        )


def _unreadable(path: pathlib.Path, error: BaseException) -> InputError:
    """What is wrong with a tokenizer's file, as far as it can be told without transformers."""
    if os.path.isfile(path / "tokenizer.json"):
        where = f"the tokenizer's file = {str(path / 'tokenizer.json')!r}"
        try:
            filed = user_files.read_json("the tokenizer's file", path / "tokenizer.json", most=_MOST_VOCABULARY)
        except InputError as damage:
            return damage
        if not isinstance(filed, dict) or not isinstance(filed.get("model"), dict):
            return InputError(f"{where} holds no object with a model, so that it is no tokenizer; {_AGAIN}")
    return InputError(f"{path}: transformers cannot read the tokenizer: {_reason(error)}; {_AGAIN}")


class _ToLog(standard_logging.Handler):
    """Lines of transformers, which quote the checkpoint's files, as lines of our log that a terminal can show."""

    def emit(self, record: standard_logging.LogRecord) -> None:
        logging.warning("transformers: %s", printable(" ".join(record.getMessage().split()), most=300))


@functools.cache
def _take_over_messages() -> None:
    transformers.utils.logging.disable_default_handler()
    transformers.utils.logging.add_handler(_ToLog(standard_logging.WARNING))


def _check_files(path: pathlib.Path) -> None:
    for name in (*_VOCABULARIES, *_OTHERS):
        if os.path.exists(path / name):
            user_files.check_file("the tokenizer's file", path / name, most=_MOST_VOCABULARY)
    for name in _SETTINGS:
        if os.path.exists(path / name):
            settings = user_files.read_json("the tokenizer's file", path / name, kind=dict, most=_MOST_SETTINGS)
            _check_templates(path / name, settings.get("chat_template"))
    for pattern in _TEMPLATES:
        for file in sorted(path.glob(pattern)):
            user_files.read_text("the checkpoint's chat template", file, most=_MOST_TEMPLATE)


def _check_templates(file: pathlib.Path, templates: object) -> None:
    """InputError for a list of chat templates that is none: transformers would fail on it without saying so."""
    if isinstance(templates, list) and not all(
        isinstance(one, dict) and all(isinstance(one.get(key), str) for key in ("name", "template"))
        for one in templates
    ):
        raise InputError(
            f"{str(file)!r}: chat_template = {str(templates)!r:.200}, expected text, or a list of objects with a name "
            "and a template"
        )


def _as_filed(path: pathlib.Path, tokenizer: Any) -> Any:
    """The tokenizer with the ids of its own files.

    Classes that transformers chooses by the model's family rebuild a tokenizer and may lose what its file has: a
    word-level one read as Qwen 2's has no tokens for any text, and Llama 2's read as LlamaTokenizer has no space in
    front of what stands behind BOS.
    """
    file = path / "tokenizer.json"
    if not os.path.isfile(file):
        # Without a family's class transformers reads SentencePiece's own rule for spaces, or what `legacy` says.
        is_model = os.path.isfile(path / "tokenizer.model")
        return PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True) if is_model else tokenizer
    filed = Tokenizer.from_file(str(file))
    filed.no_truncation()
    filed.no_padding()
    added = filed.get_added_tokens_decoder()
    probes = [*PROBES, control_probe(added[token] for token in sorted(added)[:MOST_CONTROL])]
    rows = [filed.encode(text, add_special_tokens=False).ids for text in probes]
    if token_rows(tokenizer, probes) == rows:
        return tokenizer
    logging.warning(
        "%s: transformers reads this tokenizer as %s, which splits text otherwise than tokenizer.json; "
        "it is taken as the file has it",
        path,
        type(tokenizer).__name__,
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
    if token_rows(tokenizer, probes) != rows:
        raise InputError(
            f"{path}: tokenizer_config.json declares added tokens otherwise than tokenizer.json does, so that texts "
            f"have two readings; {_AGAIN}"
        )
    return tokenizer


def control_probe(tokens: Iterable) -> str:
    """A text with plain text behind each of these added tokens, where readings of one tokenizer differ too."""
    return "".join(f"{token}Red{token} Red{token}[INST]" for token in map(str, tokens))


def token_rows(tokenizer: Any, texts: Iterable[str], *, special: bool = False) -> list[list[int]]:
    """Ids of each text; special: whether the tokenizer adds its own, such as BOS.

    Raises InputError for a text that the tokenizer fails on.
    """
    texts = list(texts)
    if not texts:
        return []
    try:
        # Not verbose: how long a text may be is not the tokenizer's to say.
        return tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        where = f"one of {len(texts)} texts, the first {texts[0]!r:.100}"
        raise InputError(f"the tokenizer fails on {where}: {_reason(error)}") from error


def check_vocabulary(tokenizer: Any, vocab_size: int) -> None:
    """InputError if plain text, BOS, EOS or the unknown token has an id that a model of `vocab_size` rows lacks.

    Control tokens beyond the table are let be: Gemma 3's tokenizer has one for pictures that its text models lack. They
    are refused where a text holds one (chats.encode_prompts), and a pad token is masked wherever it stands.
    """
    special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    written = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id]
    ids = [token for token in tokenizer.get_vocab().values() if token not in special]
    ids += [token for token in written if token is not None]
    if ids and max(ids) >= vocab_size:
        raise beyond(tokenizer, max(ids), vocab_size)


def beyond(tokenizer: Any, token: int, vocab_size: int) -> InputError:
    """The error for an id that the model has no row for."""
    return InputError(
        f"the tokenizer writes {tokenizer.convert_ids_to_tokens(token)!r:.100} as id {token}, but the model has "
        f"vocab_size = {vocab_size}; expected the tokenizer and the chat template that the model was made with"
    )


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
