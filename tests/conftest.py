"""Fixtures for every test folder: tiny random encoders built in memory, a table of ratings, the real corpora."""

import csv
import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SUBJECTS = ["we", "they", "my brother", "her friend", "the old man", "our neighbour", "the child", "nobody"]
#: Word -> (valence, arousal) it adds, on the scale from -1 to 1.
VERBS = {
    "loved": (0.35, 0.15),
    "enjoyed": (0.25, 0.05),
    "praised": (0.2, 0.05),
    "saw": (0.0, 0.0),
    "kept": (0.0, -0.1),
    "feared": (-0.25, 0.3),
    "hated": (-0.35, 0.25),
    "lost": (-0.25, -0.05),
}
ADVERBS = {
    "wildly": 0.35,
    "suddenly": 0.25,
    "loudly": 0.2,
    "really": 0.1,
    "slowly": -0.15,
    "quietly": -0.25,
    "calmly": -0.35,
}
ADJECTIVES = {
    "wonderful": (0.45, 0.2),
    "lovely": (0.35, 0.0),
    "peaceful": (0.3, -0.35),
    "plain": (0.0, -0.2),
    "strange": (-0.1, 0.15),
    "broken": (-0.3, 0.0),
    "awful": (-0.45, 0.2),
    "boring": (-0.3, -0.3),
}
NOUNS = ["party", "letter", "storm", "garden", "journey", "meeting", "song", "dog", "morning", "answer"]
TAILS = ["", "!", ".", "again.", "after the long day.", "and then went home without a word.", "by the sea."]
OTHER_WORDS = """a an the and or but not no never ever of in on at to for with without from by after before again then
that this it its is was were be been are am i you he she we they my your his her our their me him us them who what
when where why how all some any more most very so too just only also well can could would should will did do does has
have had old man woman child brother friend neighbour nobody day night long short word home went came go gone sea
river city house door window time year week here there new good bad happy sad angry afraid bored excited tired calm
love hate fear joy grief rage luck made make think thought know knew believe said say feel felt see look like as if
because while than up down out over under one two three""".split()
PUNCTUATION = list(".,!?;:'\"-()")


def _vocabulary() -> list[str]:
    words = {w for s in [*SUBJECTS, *TAILS] for w in s.replace("!", " ").replace(".", " ").split()}
    words |= {*VERBS, *ADVERBS, *ADJECTIVES, *NOUNS, *OTHER_WORDS}
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    pieces = [f"##{piece}" for piece in [*letters, "s", "ed", "ing", "ly", "er"]]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "[unused1]"]
    return list(dict.fromkeys([*special, *PUNCTUATION, *letters, *sorted(words), *pieces]))


def _save_tiny_bert(folder: Path, *, masked_lm: bool) -> None:
    from transformers import BertConfig, BertForMaskedLM, BertModel, BertTokenizer

    vocabulary = {token: index for index, token in enumerate(_vocabulary())}
    tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=True, model_max_length=64)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        hidden_dropout_prob=0.1,
        attention_probs_dropout_prob=0.1,
        max_position_embeddings=64,
        # Wider than BERT's 0.02: at this size the sentences would otherwise all look the same.
        initializer_range=0.1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20250228)
        network = (BertForMaskedLM if masked_lm else BertModel)(config)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """Networks this small only lose by sharing their work out, and lose much on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random BERT pipeline: 2 layers, width 32, mean pooling, normalised. Same weights every time."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    body = tmp_path_factory.mktemp("tiny-body")
    folder = tmp_path_factory.mktemp("tiny-backbone")
    _save_tiny_bert(body, masked_lm=False)
    transformer = Transformer(str(body))
    pipeline = SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Normalize()], device="cpu")
    pipeline.save_pretrained(str(folder), create_model_card=False)
    return folder


@pytest.fixture(scope="session")
def tiny_masked_lm_backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a random BERT with its masked-LM head, as ``bert-base-uncased`` is published: no pipeline."""
    folder = tmp_path_factory.mktemp("tiny-masked-lm")
    _save_tiny_bert(folder, masked_lm=True)
    return folder


@pytest.fixture(scope="session")
def ratings_csv(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``ratings_csv(rows=120, seed=0, name="ratings.csv")`` writes a table and returns its path.

    Columns ``text``, ``valence``, ``arousal``; the ratings are on 1 to 9, to one decimal, and follow from the words
    (with a little noise), so that they can be learnt. All texts differ; their lengths do too.
    """

    def write(rows: int = 120, seed: int = 0, name: str = "ratings.csv") -> Path:
        draw = random.Random(seed)
        combinations = list(itertools.product(SUBJECTS, ADVERBS, VERBS, ADJECTIVES, NOUNS, TAILS))
        path = tmp_path_factory.mktemp("ratings") / name
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.writer(file)
            table.writerow(["text", "valence", "arousal"])
            for subject, adverb, verb, adjective, noun, tail in draw.sample(combinations, rows):
                text = f"{subject} {adverb} {verb} the {adjective} {noun} {tail}".strip()
                valence = VERBS[verb][0] + ADJECTIVES[adjective][0]
                arousal = VERBS[verb][1] + ADJECTIVES[adjective][1] + ADVERBS[adverb]
                table.writerow([text, _rating(valence, draw), _rating(arousal, draw)])
        return path

    return write


def _rating(affect: float, draw: random.Random) -> float:
    return round(min(9.0, max(1.0, 5 + 4 * affect + draw.gauss(0, 0.2))), 1)


@pytest.fixture(scope="session")
def carl_data() -> Path:
    """The folder of the real corpora, for the tests that need them."""
    folder = os.environ.get("CARL_DATA")
    if not folder:
        pytest.skip("CARL_DATA is not set")
    return Path(folder)
