"""A model as its quantised difference from the backbone."""

from pathlib import Path

import pytest
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from carl.backbone import load_backbone
from carl.delta import LEVELS, apply, difference, pack, quantise, unpack
from carl.errors import CarlError


def moved(model: SentenceTransformer, by: float) -> SentenceTransformer:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "pooler" not in name:
                parameter += by * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("count", [1, 7, 8, 9, 1000])
def test_codes_survive_packing_in_three_bits_each(count: int) -> None:
    codes = torch.randint(8, (count,))
    packed = pack(codes)
    assert packed.dtype == torch.uint8
    assert len(packed) == (3 * count + 7) // 8
    assert unpack(packed, count).tolist() == codes.tolist()
    with pytest.raises(ValueError, match="number"):
        unpack(packed, count + 8)


def test_a_normal_matrix_keeps_what_eight_levels_can_keep() -> None:
    matrix = torch.randn(40, 4000) * torch.logspace(-6, 0, 40)[:, None]
    codes, scale = quantise(matrix)
    lost = (matrix - LEVELS[codes] * scale[:, None]).square().sum(1) / matrix.square().sum(1)
    assert lost.max() < 0.04  # Max (1960): 0.0345


def test_the_backbone_and_the_difference_give_the_model(
    tiny_model: SentenceTransformer, tiny_backbone: Path
) -> None:
    backbone = load_backbone(str(tiny_backbone))
    tuned = moved(tiny_model, 0.01)
    delta = difference(tuned, backbone)
    assert not any("pooler" in name for name in delta)
    size = sum(part.numel() * part.element_size() for part in delta.values())
    assert size < 0.3 * sum(p.numel() * 4 for p in tuned.parameters())
    texts = ["we loved the party", "they hated the storm", "nobody saw the dog"]
    before = torch.nn.functional.cosine_similarity(*_both(tuned, backbone, texts)).min()
    apply(backbone, delta)
    after = torch.nn.functional.cosine_similarity(*_both(tuned, backbone, texts)).min()
    assert 1 - after < 0.2 * (1 - before)


def _both(one: SentenceTransformer, other: SentenceTransformer, texts: list[str]) -> list[Tensor]:
    return [m.encode(texts, convert_to_tensor=True, show_progress_bar=False) for m in (one, other)]


def test_what_is_exact_in_its_form_comes_back_exactly(
    tiny_model: SentenceTransformer, tiny_backbone: Path
) -> None:
    backbone = load_backbone(str(tiny_backbone))
    with torch.no_grad():
        name, table = next((n, p) for n, p in tiny_model.named_parameters() if "word_embeddings" in n)
        table += torch.outer(torch.ones(len(table)), torch.linspace(0, 0.5, table.shape[1]))
        bias_name, bias = next((n, p) for n, p in tiny_model.named_parameters() if n.endswith("bias"))
        bias += 0.25
    apply(backbone, difference(tiny_model, backbone))
    for parameter_name, parameter in ((name, table), (bias_name, bias)):
        found = backbone.get_parameter(parameter_name)
        torch.testing.assert_close(found, parameter, atol=2e-3, rtol=0)


def test_what_does_not_fit_is_named(tiny_model: SentenceTransformer, tiny_backbone: Path) -> None:
    backbone = load_backbone(str(tiny_backbone))
    delta = difference(moved(tiny_model, 0.01), backbone)
    codes = next(name for name in delta if name.endswith(".codes"))
    with pytest.raises(CarlError, match="does not fit the backbone"):
        apply(load_backbone(str(tiny_backbone)), {**delta, codes: delta[codes][:-5]})
    with pytest.raises(CarlError, match=r"no parameter for other\.weight\.plain"):
        apply(backbone, {**delta, "other.weight.plain": torch.zeros(3)})
    with pytest.raises(CarlError, match="differ in their parameters"):
        difference(tiny_model, load_backbone("minilm"))
