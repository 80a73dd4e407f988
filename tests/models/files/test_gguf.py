"""GGUF files: equal to transformers' own reading of the same file, or one line that says what is wrong."""

import functools
import struct

import jax
import numpy as np
import pytest
import torch
import transformers
from gguf import GGMLQuantizationType as Kind
from transformers.integrations.gguf import dequant

from latent_audit import models
from latent_audit.data import chats
from latent_audit.errors import InputError
from latent_audit.models.files import gguf_config, gguf_weights
from tests.support import gguf_writer, tiny
from tests.support.refusals import refused

TOLERANCE = 1e-4
KINDS = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
KINDS += ["IQ4_NL", "IQ4_XS"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


@functools.cache
def made(architecture):
    return gguf_writer.model(architecture)


@functools.cache
def written(folder, architecture, kind="F32"):
    return gguf_writer.write(folder / f"{architecture}-{kind}.gguf", architecture, made(architecture), Kind[kind])


def theirs(path, **fields):
    """transformers' reading of a file, in float32; fields: of its config that a GGUF does not hold."""
    read = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager", **fields
    )
    return read.eval()


def errors(path, reference):
    """Largest deviation of every state and of the logits, in standard deviations of the reference."""
    cfg, params = models.load(path)
    row = np.random.default_rng(1).integers(0, 256, 20)
    wanted = tiny.reference(reference, row)
    with jax.default_matmul_precision("highest"):
        out = jax.jit(models.forward, static_argnames="cfg")(params, row[None], np.ones((1, 20), bool), cfg=cfg)
    pairs = [*zip(out.resid[:, 0], wanted.states, strict=True), (out.logits[0], wanted.logits)]
    return [np.abs(np.asarray(ours) - one).max() / one.std() for ours, one in pairs]


@pytest.mark.parametrize("architecture", gguf_writer.CASES)
def test_every_family_equals_transformers_and_the_model_it_was_made_of(folder, architecture):
    path = written(folder, architecture)
    assert models.check(path).cfg.family == gguf_writer.CASES[architecture][0].removesuffix("Config").lower().replace(
        "gemma3text", "gemma3_text"
    )
    assert max(errors(path, made(architecture))) < TOLERANCE
    # Of a first Gemma, transformers reads no GGUF.
    if architecture != "gemma":
        # Phi-3's pad token is one that tiny files have no row for.
        fields = {"pad_token_id": 0} if architecture == "phi3" else {}
        assert max(errors(path, theirs(path, **fields))) < TOLERANCE


def test_the_window_of_phi_3_is_read(folder):
    # From a GGUF, transformers leaves it out.
    model = gguf_writer.model("phi3", sliding_window=5, num_hidden_layers=1)
    path = gguf_writer.write(folder / "window.gguf", "phi3", model)
    assert models.check(path).cfg.windows == (5,)
    assert max(errors(path, model)) < TOLERANCE


@pytest.mark.parametrize("kind", KINDS[1:])
def test_every_quantisation_equals_transformers(folder, kind):
    path = written(folder, "llama", kind)
    assert max(errors(path, theirs(path))) < TOLERANCE
    assert models.quantization(path) == kind
    models.check_whole(path)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_blocks_are_dequantised_as_by_another_implementation(folder, kind):
    # transformers has its own dequantisers in torch, for the families that it reads without the gguf package.
    path = written(folder, "qwen2", kind)
    file = gguf_weights.gguf_files.read(path)
    tensor = file.tensors["blk.1.ffn_down.weight"]
    stored = np.array(gguf_weights._stored(path, tensor))
    wanted = dequant.dequantize(torch.from_numpy(stored), int(Kind[kind])).reshape(tensor.shape).numpy()
    ours = gguf_weights.rows_of(path, "model.layers.1.mlp.down_proj.weight")
    assert np.abs(ours(slice(0, 256)) - wanted).max() < 1e-6 * np.abs(wanted).max()
    assert np.array_equal(ours(slice(7, 40)), ours(slice(0, 256))[7:40])


def test_the_scaling_of_llama_3_is_found_again_in_its_tensor(folder):
    rope = dict(tiny.LLAMA3_ROPE, original_max_position_embeddings=8192, rope_theta=500000.0)
    model = made("llama")
    config = transformers.LlamaConfig(**(model.config.to_dict() | {"rope_parameters": rope}))
    llama3 = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    llama3.load_state_dict(model.state_dict())
    # What llama.cpp's converter writes: by how much each frequency is divided.
    plain = 1 / 500000.0 ** (np.arange(32) / 32)
    factors = (plain / llama3.model.rotary_emb.inv_freq.numpy()).astype(np.float32)
    path = gguf_writer.write(folder / "llama3.gguf", "llama", llama3, extra={"rope_freqs.weight": factors})
    rope = models.check(path).cfg.ropes[0]
    assert (rope.kind, rope.factor, rope.original_max_positions) == ("llama3", 8.0, 8192)
    assert max(errors(path, llama3)) < TOLERANCE
    wrong = {"rope_freqs.weight": factors * np.linspace(1, 1.1, 32, dtype=np.float32)}
    path = gguf_writer.write(folder / "wrong3.gguf", "llama", llama3, extra=wrong)
    with pytest.raises(InputError, match="is not Llama 3's scaling"):
        models.check(path)


def test_the_name_tells_the_bits_and_what_most_weights_are(folder):
    changes = {"general.file_type": 15}
    path = gguf_writer.write(folder / "a.gguf", "llama", made("llama"), Kind.Q4_K, changes=changes)
    assert models.quantization(path) == "Q4_K_M"
    path = gguf_writer.write(folder / "b.gguf", "llama", made("llama"), Kind.Q8_0, changes=changes)
    assert models.quantization(path) == "Q4_K_M (most weights Q8_0)"
    path = gguf_writer.write(folder / "c.gguf", "llama", made("llama"), Kind.Q8_0, changes={"general.file_type": None})
    assert models.quantization(path) == "Q8_0"
    assert models.title(path, "mine") == "mine (Q8_0)" and models.title(path, "mine-q8_0.gguf") == "mine-q8_0"


def test_a_directory_with_one_file_is_that_file(folder, tmp_path):
    whole = tmp_path / "one" / "model.gguf"
    whole.parent.mkdir()
    whole.write_bytes(written(folder, "llama").read_bytes())
    (whole.parent / "mmproj-model.gguf").write_bytes(b"a projector of pictures")
    assert models.resolve(whole.parent) == models.resolve(whole) == whole
    assert models.fingerprint(whole) == models.fingerprint(written(folder, "llama"))
    whole.write_bytes(whole.read_bytes()[:-1] + b"\1")
    assert models.fingerprint(whole) != models.fingerprint(written(folder, "llama"))
    (whole.parent / "second.gguf").write_bytes(b"")
    with pytest.raises(InputError, match="holds 2 GGUF files: model.gguf, second.gguf; give the path of one"):
        models.resolve(whole.parent)


def test_the_chat_is_read_from_the_metadata(folder):
    path = written(folder, "llama")
    ours = chats.load_tokenizer(path)
    reference = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    for text in ("hello world 123", "<|user|>hello<eos>", "  two\n\nlines\t", "\u00e9\u4f60 I'LL"):
        ids = ours(text, add_special_tokens=False)["input_ids"]
        assert ids == reference(text, add_special_tokens=False)["input_ids"]
        assert ours.decode(ids) == text
    # Composed as the family's own tokenizer does; rows of the table without a token have none.
    assert ours("e\u0301")["input_ids"] == ours("\u00e9")["input_ids"]
    assert max(ours.get_vocab().values()) == 264
    chat = chats.make_chat(ours, family="llama", vocab_size=300)
    assert chats.render(chat, "hello") == "<|user|>hello<eos><|assistant|>"
    assert models.read_generation_config(path) == {"eos_token_id": [257]}


def test_sentence_pieces_are_merged_by_their_scores(folder):
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    words = ["\u2581", "a", "b", "ab", "\u2581ab", "ba", "\u2581a", "[", "\u2581["]
    tokens = pieces + words
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(pieces) + [-float(number) for number in range(len(words))],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(words),
        "tokenizer.ggml.merges": None,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
    }
    path = gguf_writer.write(folder / "pieces.gguf", "llama", made("llama"), changes=metadata)
    ours = chats.load_tokenizer(path)

    def split(text, **options):
        return ours.convert_ids_to_tokens(ours(text, **options)["input_ids"])

    assert split("ab ab") == ["<s>", "\u2581ab", "\u2581ab"]
    assert split("bab", add_special_tokens=False) == ["\u2581", "b", "ab"]
    # A space before text behind a control token, as SentencePiece has it; bytes for what has no piece.
    assert split("<s>[", add_special_tokens=False) == ["<s>", "\u2581["]
    assert split("a\u00e9", add_special_tokens=False) == ["\u2581a", "<0xC3>", "<0xA9>"]
    assert ours.decode(ours("ab \u00e9a", add_special_tokens=False)["input_ids"]) == "ab \u00e9a"


def test_a_file_that_is_cut_or_none_says_so(folder, tmp_path):
    whole = written(folder, "llama").read_bytes()
    bad = tmp_path / "bad.gguf"
    for size in (len(whole) - 1, len(whole) // 2, 4000, 100, 30):
        bad.write_bytes(whole[:size])
        assert f"{bad} is cut short: it has {size} bytes" in refused(lambda: models.check(bad))
    for data, what in (
        (b"PK\3\4" + whole[4:], "it is no GGUF file"),
        (b"", "has 0 bytes and is no GGUF file"),
        (whole[:4] + struct.pack(">I", 3) + whole[8:], "little-endian"),
        (whole[:8] + struct.pack("<Q", 2**60) + whole[16:], "is damaged: it counts"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    ):
        bad.write_bytes(data)
        assert what in refused(lambda: models.check_whole(bad))
    assert "no such directory" in refused(lambda: models.check(tmp_path / "absent.gguf"))


def test_every_byte_of_the_header_may_be_wrong(folder, tmp_path):
    whole = bytearray(written(folder, "llama").read_bytes()[:9000])
    rest = written(folder, "llama").read_bytes()[9000:]
    bad, rng = tmp_path / "bad.gguf", np.random.default_rng(0)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(4, len(whole), 3):
            damaged[at] = rng.integers(256)
        bad.write_bytes(damaged + rest)
        try:
            models.check(bad)
            chats.load_tokenizer(bad)
        except InputError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize(
    "changes, what",
    [
        ({"general.architecture": "mamba"}, "general.architecture = 'mamba' is not read from a GGUF; read are llama"),
        ({"llama.expert_count": 8}, "mixtures of experts are not read"),
        ({"llama.block_count": None}, "has no llama.block_count"),
        ({"llama.rope.scaling.type": "yarn"}, "rope scaling 'yarn' is not read from a GGUF"),
        ({"split.count": 3}, "llama-gguf-split --merge FIRST_PART.gguf WHOLE.gguf"),
        ({"llama.block_count": 3}, "the weight files hold 2 blocks"),
        ({"llama.attention.head_count": [4, 4]}, "head_count = [4, 4], expected one number"),
    ],
)
def test_metadata_that_is_not_read_is_named(folder, tmp_path, changes, what):
    path = gguf_writer.write(tmp_path / "odd.gguf", "llama", made("llama"), changes=changes)
    assert what in refused(lambda: models.check(path))


def test_an_unknown_type_is_named(folder, tmp_path):
    data = bytearray(written(folder, "llama").read_bytes())
    at = data.index(b"blk.0.attn_q.weight") + len(b"blk.0.attn_q.weight") + 4 + 16
    data[at : at + 4] = struct.pack("<I", 19)
    (tmp_path / "odd.gguf").write_bytes(data)
    message = refused(lambda: models.check(tmp_path / "odd.gguf"))
    assert "'blk.0.attn_q.weight' is of ggml type 19, which is not read; read are F32" in message


def test_a_part_of_a_split_file_says_how_to_join(folder, tmp_path):
    part = tmp_path / "model-00001-of-00003.gguf"
    part.write_bytes(written(folder, "llama").read_bytes())
    assert "is one part of a split GGUF" in refused(lambda: models.check(part))


def test_a_tokenizer_that_is_missing_or_not_read_is_named(folder, tmp_path):
    path = gguf_writer.write(tmp_path / "a.gguf", "llama", made("llama"), tokenizer=False)
    assert "holds no tokenizer" in refused(lambda: chats.load_tokenizer(path))
    for key, value in (("model", "rwkv"), ("pre", "klingon")):
        changes = {f"tokenizer.ggml.{key}": value}
        path = gguf_writer.write(tmp_path / f"{key}.gguf", "llama", made("llama"), changes=changes)
        assert f"tokenizer.ggml.{key} = '{value}' is not read" in refused(lambda: chats.load_tokenizer(path))  # noqa: B023
    changes = {"tokenizer.chat_template": None}
    path = gguf_writer.write(tmp_path / "b.gguf", "llama", made("llama"), changes=changes)
    bare = chats.load_tokenizer(path)
    assert "chat.template_file" in refused(lambda: chats.make_chat(bare, family="llama", vocab_size=300))


@pytest.mark.parametrize("kind", ["F16", "Q4_1", "Q6_K"])
def test_a_factor_that_is_no_number_is_found_before_compute(folder, tmp_path, kind):
    data = bytearray(written(folder, "llama", kind).read_bytes())
    path = tmp_path / "nan.gguf"
    path.write_bytes(data)
    tensor = gguf_config.gguf_files.read(path).tensors["blk.1.ffn_up.weight"]
    at = tensor.start + {"F16": 20, "Q4_1": 20 + 2, "Q6_K": 210 + 208}[kind]
    data[at : at + 2] = np.float16(np.nan).tobytes()
    path.write_bytes(data)
    assert "model.layers.1.mlp.up_proj.weight in nan.gguf" in refused(lambda: models.check_whole(path))
