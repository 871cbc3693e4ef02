"""Finding and loading encoders, and saying what is wrong with one."""

import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer

from carl import backbone
from carl.backbone import (
    is_normalised,
    load_backbone,
    load_masked_lm,
    replaceable_tokens,
    special_tokens,
    word_embeddings,
)
from carl.errors import CarlError, UsageError


def test_loaded_backbone(tiny_backbone: Path) -> None:
    model = load_backbone(str(tiny_backbone))
    assert is_normalised(model)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert word_embeddings(model).weight.shape == (len(model.tokenizer), 32)
    assert model.max_seq_length == 64


def test_a_plain_encoder_gets_mean_pooling(tiny_masked_lm_backbone: Path) -> None:
    model = load_backbone(str(tiny_masked_lm_backbone)).eval()
    assert not is_normalised(model)
    features = model.tokenizer(["we loved it", "nobody"], padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(dict(features))
    for row, mask in enumerate(features["attention_mask"].bool()):
        mean = output["token_embeddings"][row][mask].mean(0)
        torch.testing.assert_close(output["sentence_embedding"][row], mean)


def test_minilm_is_the_published_encoder() -> None:
    model = load_backbone("minilm")
    assert model.get_embedding_dimension() == 384
    assert is_normalised(model)
    a, b, c = model.encode(["I am so happy", "I feel great joy", "The train leaves at noon"])
    assert a @ b > 0.5 > a @ c


def test_changed_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbone, "MINILM_SHA256", "0" * 64)
    with pytest.raises(CarlError, match=r"sha256 is 53aa5117.*reinstall") as caught:
        load_backbone("minilm")
    assert not isinstance(caught.value, UsageError)


def test_unknown_backbone_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def no_network(address: tuple[str, int], **kwargs: object) -> None:
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(backbone.socket, "create_connection", no_network)
    monkeypatch.setattr(backbone, "getproxies", dict)
    start = time.monotonic()
    with pytest.raises(UsageError, match=r"'bert-base-uncasd' was not found.*bert-base-uncased") as caught:
        load_backbone("bert-base-uncasd")
    assert time.monotonic() - start < 10, "the hub's client would retry for a minute"
    assert len(asked) == 1
    assert "\n" not in str(caught.value)
    with pytest.raises(UsageError, match="known names are minilm"):
        load_backbone("zzzzzz-qqqqq")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all", "runs/some/where"])
def test_missing_folder(name: str) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_backbone(name)


def test_damaged_folder(tiny_backbone: Path, tmp_path: Path) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(tiny_backbone, folder)
    weights = next(folder.rglob("model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CarlError, match="cannot be loaded") as caught:
        load_backbone(str(folder))
    assert not isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CarlError, match="cannot be loaded"):
        load_backbone(str(tmp_path / "empty"))


@pytest.mark.parametrize("which", ["tiny", "minilm"])
def test_special_and_replaceable_tokens_are_disjoint(which: str, tiny_model: SentenceTransformer) -> None:
    model = tiny_model if which == "tiny" else load_backbone("minilm")
    special, replaceable = special_tokens(model), replaceable_tokens(model)
    assert not torch.isin(special, replaceable).any()
    names = set(model.tokenizer.convert_ids_to_tokens(special.tolist()))
    assert {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"} <= names
    words = model.tokenizer.convert_ids_to_tokens(replaceable.tolist())
    assert not any(word.startswith("[") and word.endswith("]") and len(word) > 2 for word in words)
    assert {"love", "##s", "!"} <= set(words)
    assert len(set(replaceable.tolist())) == len(replaceable)
    assert int(replaceable.max()) < len(word_embeddings(model).weight)
    unused = sum(token.startswith("[unused") for token in model.tokenizer.get_vocab())
    assert len(special) + len(replaceable) + unused == len(model.tokenizer.get_vocab())


def test_masked_lm(tiny_masked_lm_backbone: Path) -> None:
    from transformers import BertForMaskedLM

    model = load_backbone(str(tiny_masked_lm_backbone))
    generator = load_masked_lm(str(tiny_masked_lm_backbone), model).train()
    features = dict(model.tokenizer(["we loved it", "nobody"], padding=True, return_tensors="pt"))
    ids = features["input_ids"].clone()
    chosen = torch.tensor([[False, True, False, True, False], [False, True, False, False, False]])
    logits = generator.logits_at(features, chosen)
    assert torch.equal(features["input_ids"], ids)
    assert not logits.requires_grad
    reference = BertForMaskedLM.from_pretrained(tiny_masked_lm_backbone).eval()
    ids[0, 1] = ids[0, 3] = ids[1, 1] = model.tokenizer.mask_token_id
    with torch.no_grad():
        everywhere = reference(input_ids=ids, attention_mask=features["attention_mask"]).logits
    torch.testing.assert_close(logits, torch.stack([everywhere[0, 1], everywhere[0, 3], everywhere[1, 1]]))
    assert not any(p.requires_grad for p in generator.parameters())


def test_masked_lm_missing(tiny_backbone: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no masked-LM head.*hotflip"):
        load_masked_lm(str(tiny_backbone), load_backbone(str(tiny_backbone)))
    with pytest.raises(UsageError, match="no masked-LM head"):
        load_masked_lm("minilm", load_backbone("minilm"))
    folder = tmp_path / "silent"
    shutil.copytree(tiny_backbone, folder)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = None
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="no masked-LM head"):
        load_masked_lm(str(folder), load_backbone(str(folder)))
