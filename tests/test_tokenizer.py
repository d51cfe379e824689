import numpy as np
import pytest
import sentencepiece
import tokenizers

from stav2a_jax.tokenizer import END, PAD, Tokenizer, train_bpe
from stav2a_jax.types import UserError

CAPTIONS = [
    f"{how} {what} hits a {where} surface"
    for how in ("a soft", "a loud")
    for what in ("ball", "stick")
    for where in ["wood", "metal", "glass"]
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(CAPTIONS, 300)


def test_every_prompt_ends_with_the_end_token_and_is_padded_to_the_longest(tokenizer):
    ids, mask = tokenizer(["a soft ball", "a soft ball hits a metal surface"])
    assert ids.dtype == mask.dtype == np.int32
    assert ids.shape == mask.shape
    lengths = mask.sum(axis=1)
    assert lengths.max() == ids.shape[1]
    assert [row[n - 1] for row, n in zip(ids, lengths, strict=True)] == [END, END]
    assert (ids[mask == 0] == PAD).all()


def test_the_empty_prompt_is_the_end_token_alone(tokenizer):
    ids, mask = tokenizer([""])
    assert ids.tolist() == [[END]]
    assert mask.tolist() == [[1]]


def test_truncation_keeps_the_end_token(tokenizer):
    full, _ = tokenizer(CAPTIONS[:1])
    ids, mask = tokenizer(CAPTIONS[:1], max_length=4)
    assert ids.tolist() == [[*full[0, :3], END]]
    assert mask.sum() == 4


def test_pad_to_fixes_the_length(tokenizer):
    assert tokenizer(["", "a"], pad_to=9)[0].shape == (2, 9)
    ids, _ = tokenizer(CAPTIONS, pad_to=3)
    assert ids.shape[1] == 3
    assert (ids[:, -1] == END).all()


def test_no_prompt_gives_no_row(tokenizer):
    assert tokenizer([])[0].shape == (0, 1)


@pytest.mark.parametrize(
    "text", ["a soft ball hits a metal surface", "Ünïcödé, 咚咚 \U0001f941!", "typed </s> and <pad>"]
)
def test_any_text_survives_a_round_trip_up_to_case(tokenizer, text):
    ids, _ = tokenizer([text], pad_to=80)
    assert tokenizer.decode(ids[0]).strip() == text.lower()
    assert ids.max() < tokenizer.vocab_size


def test_case_does_not_matter(tokenizer):
    np.testing.assert_array_equal(tokenizer(["A Soft BALL"])[0], tokenizer(["a soft ball"])[0])


def test_training_does_not_depend_on_the_order_of_the_captions(tokenizer, tmp_path):
    again = train_bpe(CAPTIONS[::-1], 300)
    assert again.save(tmp_path / "a").read_bytes() == tokenizer.save(tmp_path / "b").read_bytes()


def test_a_saved_tokenizer_loads_equal_from_folder_and_file(tokenizer, tmp_path):
    file = tokenizer.save(tmp_path)
    for path in (tmp_path, file):
        np.testing.assert_array_equal(Tokenizer.load(path)(CAPTIONS)[0], tokenizer(CAPTIONS)[0])


def test_limits_and_padding_inside_a_file_are_ignored(tokenizer, tmp_path):
    inner = tokenizers.Tokenizer.from_file(str(tokenizer.save(tmp_path)))
    inner.enable_truncation(3)
    inner.enable_padding(length=50)
    inner.save(str(tmp_path / "tokenizer.json"))
    np.testing.assert_array_equal(Tokenizer.load(tmp_path)(CAPTIONS)[0], tokenizer(CAPTIONS)[0])


def test_a_sentencepiece_model_gives_the_same_conventions(tmp_path):
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "captions.txt"),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=50,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    loaded = Tokenizer.load(tmp_path)
    ids, mask = loaded([CAPTIONS[0], ""])
    assert ids[1].tolist() == [END] + [PAD] * (ids.shape[1] - 1)
    assert ids[0, -1] == END
    assert mask[1].sum() == 1
    assert loaded.decode(ids[0]) == CAPTIONS[0]
    copy = loaded.save(tmp_path / "copy")
    np.testing.assert_array_equal(Tokenizer.load(copy)([CAPTIONS[0], ""])[0], ids)


def test_bad_input_is_refused_with_advice(tokenizer, tmp_path):
    with pytest.raises(UserError, match="No tokenizer at"):
        Tokenizer.load(tmp_path)
    for name in ("tokenizer.json", "spiece.model"):
        (tmp_path / name).write_text("nonsense")
        with pytest.raises(UserError, match="copy it again"):
            Tokenizer.load(tmp_path / name)
    with pytest.raises(UserError, match=r"write \[prompt\]"):
        tokenizer("a prompt")
    with pytest.raises(UserError, match="at least 1"):
        tokenizer(["a prompt"], max_length=0)
    with pytest.raises(UserError, match="at least 259"):
        train_bpe(CAPTIONS, 100)
    tokenizers.Tokenizer(tokenizers.models.BPE()).save(str(tmp_path / "other.json"))
    with pytest.raises(UserError, match="not of the T5 family"):
        Tokenizer.load(tmp_path / "other.json")
