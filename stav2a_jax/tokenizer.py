"""Text to token ids: mT5's tokenizer from its files, or a small byte-level BPE trained on one's own captions.

Conventions of T5: ``<pad>`` is 0, ``</s>`` is 1 and ends every prompt. The empty prompt is ``</s>`` alone.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from stav2a_jax.types import UserError

PAD, END = 0, 1
SPECIALS = ("<pad>", "</s>", "<unk>")
FILES = ("tokenizer.json", "spiece.model")


class Tokenizer:
    """Callable: texts -> padded ids and mask. Made by :meth:`load` or :func:`train_bpe`."""

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        decode: Callable[[list[int]], str],
        vocab_size: int,
        save: Callable[[pathlib.Path], object],
        file_name: str = FILES[0],
    ):
        self._encode, self._decode, self._save, self._file_name = encode, decode, save, file_name
        self.vocab_size = vocab_size

    @classmethod
    def load(cls, path: str | pathlib.Path) -> Tokenizer:
        """Reads ``tokenizer.json`` or ``spiece.model``, or a folder with one of them (the first is preferred).

        Raises UserError if there is none, if it cannot be read, or if sentencepiece is needed and missing.
        """
        path = pathlib.Path(path)
        found = [f for f in ([path / name for name in FILES] if path.is_dir() else [path]) if f.is_file()]
        if not found:
            raise UserError(f"No tokenizer at {path}; give a folder with {' or '.join(FILES)}, or one of these files.")
        if found[0].suffix == ".model":
            return _from_sentencepiece(found[0])
        try:
            inner = tokenizers.Tokenizer.from_file(str(found[0]))
        except Exception as error:  # the library raises bare Exception for a broken file
            raise UserError(f"{found[0]} is not a tokenizer file ({error}); copy it again from its source.") from error
        return _from_tokenizers(inner)

    def save(self, path: str | pathlib.Path) -> pathlib.Path:
        """Writes the tokenizer into a folder, or under a file name with a suffix; returns the file."""
        path = pathlib.Path(path)
        if not path.suffix:
            path = path / self._file_name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._save(path)
        return path

    def __call__(
        self, texts: Sequence[str], max_length: int = 200, *, pad_to: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """ids (B, L) int32 and mask (B, L) int32, 1 = keep; L = longest prompt, or ``pad_to`` tokens.

        A prompt longer than ``max_length`` (or ``pad_to``) tokens is cut and still ends with ``</s>``. Raises
        UserError for a single string or a limit below one.
        """
        if isinstance(texts, str):
            raise UserError("The tokenizer takes a list of prompts, not one string; write [prompt].")
        limit = max_length if pad_to is None else min(max_length, pad_to)
        if limit < 1:
            raise UserError(f"max_length and pad_to must be at least 1 to hold the end token, not {limit}.")
        rows = [[*self._encode(text)[: limit - 1], END] for text in texts]
        length = pad_to or max((len(row) for row in rows), default=1)
        ids = np.full((len(rows), length), PAD, np.int32)
        mask = np.zeros((len(rows), length), np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)], mask[i, : len(row)] = row, 1
        return ids, mask

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of ids, without padding and end."""
        return self._decode([int(i) for i in ids if i not in (PAD, END)])


def _from_tokenizers(inner: tokenizers.Tokenizer) -> Tokenizer:
    if inner.token_to_id("</s>") != END or inner.token_to_id("<pad>") != PAD:
        raise UserError(
            "This tokenizer is not of the T5 family: it needs <pad> = 0 and </s> = 1; use mT5's or train_bpe."
        )
    # a file may carry its own limits and padding, which would act before ours
    inner.no_truncation()
    inner.no_padding()
    inner.encode_special_tokens = True  # "</s>" typed into a prompt is text, not the end
    return Tokenizer(
        lambda text: inner.encode(text, add_special_tokens=False).ids,
        lambda ids: inner.decode(ids),
        inner.get_vocab_size(),
        lambda path: inner.save(str(path)),
    )


def _from_sentencepiece(path: pathlib.Path) -> Tokenizer:
    try:
        import sentencepiece
    except ImportError as error:
        raise UserError(f"Reading {path.name} needs sentencepiece; install it, or use a tokenizer.json.") from error
    content = path.read_bytes()
    try:
        model = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path} is not a sentencepiece model ({error}); copy it again from its source.") from error
    if model.pad_id() != PAD or model.eos_id() != END:
        raise UserError(f"{path} is not of the T5 family: it needs <pad> = 0 and </s> = 1; use mT5's or train_bpe.")
    return Tokenizer(
        model.encode,
        model.decode,
        model.vocab_size(),
        lambda target: target.write_bytes(content),
        FILES[1],
    )


def train_bpe(texts: Iterable[str], vocab_size: int = 600) -> Tokenizer:
    """Byte-level BPE of the captions, lower-cased and NFKC-normalised; no text is ever out of vocabulary.

    Deterministic: the same captions in any order give the same file. Raises UserError for a vocabulary
    smaller than the 256 bytes and three special tokens.
    """
    least = len(SPECIALS) + 256
    if vocab_size < least:
        raise UserError(f"vocab_size={vocab_size} is too small for a byte-level vocabulary; use at least {least}.")
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(sorted(texts), trainer)
    return _from_tokenizers(inner)
