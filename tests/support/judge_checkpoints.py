"""Tiny checkpoints of the type that each form of judge asks for, with random weights: they judge, and mean nothing."""

from tests.judges.test_forms import IN_TEXT
from tests.support import tiny
from tests.support.byte_tokenizer import byte_tokenizer

# Form -> the case of tests/support/tiny.py that is of its family, and the name that the checkpoint is known by.
CASES = {
    "harmbench-llama": ("llama2", "HarmBench-Llama-2-13b-cls"),
    "harmbench-mistral": ("mistral", "HarmBench-Mistral-7b-val-cls"),
    "llama-guard": ("llama3", "Llama-Guard-3-8B"),
    "wildguard": ("mistral", "wildguard"),
    "strongreject": ("gemma", "strongreject-15k-v1"),
}


def judge_checkpoint(form, directory):
    """Write one into `directory` under its published name; returns its path."""
    case, name = CASES[form]
    is_guard = form == "llama-guard"
    tokenizer = byte_tokenizer("<|begin_of_text|>" if is_guard else "<s>", IN_TEXT if is_guard else None)
    model = tiny.model(case)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(directory / name)
    tokenizer.save_pretrained(directory / name)
    return directory / name
