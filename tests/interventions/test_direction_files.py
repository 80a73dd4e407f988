"""Directions of others from files of their own forms: which state they belong to, and what is refused."""

import json
import pathlib
import shlex
import subprocess
import sys

import gguf
import numpy as np
import pytest
import safetensors.torch
import torch

from latent_audit.errors import InputError
from latent_audit.interventions import direction_files

L, D = 3, 8
ROWS = np.random.default_rng(0).normal(size=(L + 1, D)) * 7


def read(path):
    return direction_files.read(path, num_layers=L, embed_dim=D)


def unit(row):
    return row / np.linalg.norm(row)


def control_vector(path, directions, arch="controlvector", kind=np.float32):
    """As repeng's export_gguf lays one out."""
    writer = gguf.GGUFWriter(path, arch)
    writer.add_string(f"{arch}.model_hint", "llama")
    writer.add_uint32(f"{arch}.layer_count", len(directions))
    for layer, vector in directions.items():
        writer.add_tensor(f"direction.{layer}", vector.astype(kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    "array, states, words",
    [
        (ROWS[0], dict.fromkeys(range(L + 1), 0), "one vector for every state"),
        (ROWS[:1], dict.fromkeys(range(L + 1), 0), "one vector for every state"),
        (ROWS[1:], {1: 1, 2: 2, 3: 3}, "rows of outputs of the blocks"),
        (ROWS.astype(np.float16), {0: 0, 1: 1, 2: 2, 3: 3}, "rows of every state, the embedding first"),
        (np.where(np.arange(L + 1)[:, None] == 0, 0, ROWS), {1: 1, 2: 2, 3: 3}, "rows of every state"),
    ],
)
def test_rows_of_an_array_are_states(array, states, words, tmp_path):
    np.save(tmp_path / "a.npy", array)
    found = read(tmp_path / "a.npy")
    assert list(found.vectors) == list(states) and found.words.startswith(words)
    for state, row in states.items():
        np.testing.assert_allclose(
            found.vectors[state], unit(ROWS[row]), rtol=2e-3 if array.dtype == np.float16 else 1e-6
        )
        assert found.vectors[state].dtype == np.float32


def test_refusal_directions_metadata_names_the_input_of_its_block(tmp_path):
    np.save(tmp_path / "direction.npy", ROWS[1])
    (tmp_path / "direction_metadata.json").write_text(json.dumps({"pos": -1, "layer": 2}))
    found = read(tmp_path / "direction.npy")
    assert list(found.vectors) == [2] and "input of block 2" in found.words
    (tmp_path / "direction_metadata.json").write_text(json.dumps({"pos": -1, "layer": 9}))
    with pytest.raises(InputError, match="layer = 9, expected a block from 0 to 2"):
        read(tmp_path / "direction.npy")


@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_safetensors_hold_one_array_or_one_tensor_a_block(kind, tmp_path):
    rows = torch.tensor(ROWS).to(kind)
    safetensors.torch.save_file({"directions": rows}, tmp_path / "all.safetensors")
    safetensors.torch.save_file(
        {f"layers.{block}": rows[block + 1].clone() for block in (2, 0)}, tmp_path / "some.safetensors"
    )
    every, some = read(tmp_path / "all.safetensors"), read(tmp_path / "some.safetensors")
    assert list(every.vectors) == [0, 1, 2, 3] and list(some.vectors) == [1, 3]
    assert some.words == "outputs of blocks 0, 2"
    for found in (every, some):
        for state, vector in found.vectors.items():
            np.testing.assert_allclose(vector, unit(rows[state].double().numpy()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_a_control_vectors_number_is_the_block_whose_output_it_is_added_to(kind, tmp_path):
    # repeng trains none for block 0 and writes from the last block on.
    path = control_vector(tmp_path / "vector.gguf", {2: ROWS[3], 1: ROWS[2]}, kind=kind)
    found = read(path)
    assert list(found.vectors) == [2, 3] and found.words == "outputs of blocks 1 to 2"
    stored = gguf.GGUFReader(path)
    for tensor in stored.tensors:
        state = int(tensor.name.split(".")[1]) + 1
        np.testing.assert_allclose(found.vectors[state], unit(tensor.data.astype(float)), rtol=1e-6)


def test_a_pickle_is_refused_with_the_line_that_converts_it(tmp_path):
    path = tmp_path / "direction.pt"
    torch.save(torch.tensor(ROWS[1]).bfloat16(), path)
    with pytest.raises(InputError, match="is a pickle, which runs whatever code is in it") as error:
        read(path)
    told = str(error.value)
    assert "\n" not in told
    command = shlex.split(told[told.index("python -c") :])
    subprocess.run([sys.executable, *command[1:]], check=True)
    found = read(tmp_path / "direction.npy")
    np.testing.assert_allclose(found.vectors[0], unit(torch.tensor(ROWS[1]).bfloat16().double().numpy()), rtol=1e-6)


def put(path, value):
    if isinstance(value, bytes):
        path.write_bytes(value)
    elif isinstance(value, np.ndarray):
        np.save(path, value, allow_pickle=True)
    return path


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("gone.npy", None, "cannot be read"),
        ("a.txt", b"1 2", "the suffix '.txt' is not one of .npy, .safetensors, .gguf"),
        ("a.npy", np.ones((2, 4, D)), r"holds an array \[2, 4, 8\], expected .*of several positions take one"),
        ("a.npy", np.ones((5, D)), r"holds an array \[5, 8\]"),
        ("a.npy", np.ones(D + 1), r"direction at state 0 is \[9\], expected \[8\], this model's width"),
        ("a.npy", np.zeros(D), "holds zeros alone"),
        ("a.npy", np.array([1.0] * 7 + [np.nan]), "holds NaN or infinity"),
        ("a.npy", np.array([{}, 1], object), "is no .npy of numbers: Object arrays cannot be loaded"),
        ("a.npy", np.arange(D), "holds int64, expected floating point numbers"),
        ("a.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f8'", "is no .npy of numbers"),
        ("a.safetensors", b"\x00" * 30, "is no safetensors file"),
        ("a.safetensors", safetensors.torch.save({"a": torch.ones(D), "b.1": torch.ones(D)}), "one tensor, or one"),
        ("a.safetensors", safetensors.torch.save({"a.1": torch.ones(D), "b.1": torch.ones(D)}), "one tensor, or one"),
        ("a.safetensors", safetensors.torch.save({"a.3": torch.ones(D)}), "holds blocks 3, but this model has"),
        ("a.safetensors", safetensors.torch.save({"a": torch.ones(D, dtype=torch.int64)}), "is I64, expected one of"),
        ("a.gguf", b"GGUF", "has 4 bytes and is no GGUF file"),
    ],
)  # fmt: skip
def test_other_files_are_one_line(name, value, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        read(put(tmp_path / name, value))
    assert "\n" not in str(error.value)


def test_a_gguf_of_a_model_is_no_direction(tmp_path):
    path = control_vector(tmp_path / "model.gguf", {1: ROWS[1]}, arch="llama")
    with pytest.raises(InputError, match="is a GGUF of 'llama', expected a control vector"):
        read(pathlib.Path(path))
