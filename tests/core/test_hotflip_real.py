"""On the real backbone: hotflip's replacements raise the contrastive loss more than random ones do."""

from statistics import fmean

import pytest
import torch
from torch import Tensor

from carl import perturbation
from carl.affect import label_statistics
from carl.backbone import load_backbone, word_embeddings
from carl.config import CarlConfig
from carl.losses.carl import CarlObjective
from carl.saliency import gradient_norm

SENTENCES = [
    ("We won the final and the whole street is dancing!", 0.9, 0.8),
    ("I can finally sleep in on a Sunday.", 0.5, -0.7),
    ("The report is due at the end of the month.", 0.0, -0.2),
    ("He screamed at me in front of everybody.", -0.8, 0.8),
    ("My grandmother's garden smells of lavender.", 0.6, -0.5),
    ("The bus was late again, so I walked.", -0.2, -0.1),
    ("Nobody came to her birthday.", -0.7, -0.3),
    ("They are giving away free tickets right now, run!", 0.5, 0.8),
    ("The funeral was short and it rained.", -0.7, -0.4),
    ("There is a snake in the kitchen!", -0.6, 0.9),
    ("A quiet lake, a book, and nothing to do.", 0.6, -0.8),
    ("I have been waiting in this line for an hour.", -0.4, 0.1),
    ("She said yes!", 0.9, 0.8),
    ("The committee will meet on Thursday.", 0.0, -0.3),
    ("This soup tastes like dishwater.", -0.5, 0.0),
    ("Our team lost the contract this morning.", -0.6, 0.2),
    ("The puppy fell asleep on my lap.", 0.7, -0.5),
    ("What a breathtaking view from up here!", 0.8, 0.6),
    ("I don't really care what you decide.", -0.2, -0.5),
    ("The engine caught fire on the motorway.", -0.7, 0.8),
    ("He returned the drill he had borrowed.", 0.1, -0.3),
    ("Thank you for staying with me through all of this.", 0.7, 0.0),
    ("The lecture went on and on and on.", -0.4, -0.6),
    ("I passed the exam, I can't believe it!", 0.9, 0.9),
    ("The doctor says it has come back.", -0.8, 0.3),
    ("Please fill in the form on page two.", 0.0, -0.3),
    ("We watched the snow fall all afternoon.", 0.4, -0.6),
    ("Somebody stole my bicycle again.", -0.6, 0.5),
    ("The children are building a castle on the beach.", 0.6, 0.2),
    ("He sat alone at the window and said nothing.", -0.5, -0.5),
    ("The price of tea has risen by two percent.", -0.1, -0.2),
    ("I hate how you always lie to me!", -0.9, 0.8),
]


LABELS = torch.tensor([[valence, arousal] for _, valence, arousal in SENTENCES])


@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_the_adversary_raises_the_loss_more_than_chance(sigma: float) -> None:
    """By the tokens it puts in, at the same positions; and, for narrow affinities, by the positions it takes."""
    config = CarlConfig(sigma=sigma, queue_size=0, ptd_weight=0, regression_weight=0)
    model = load_backbone("minilm")
    objective = CarlObjective(model, config, label_statistics(LABELS, config.bins)).eval()
    features = dict(model.tokenizer([text for text, _, _ in SENTENCES], padding=True, return_tensors="pt"))
    first = objective.sentence_pass(features, LABELS)
    first.losses["mccl"].backward()
    ids, gradient, keys = features["input_ids"], first.tap.gradient, first.keys
    assert keys is not None
    valid = perturbation.valid_tokens(ids, features["attention_mask"], objective.special)
    matrix = word_embeddings(model).weight.detach()

    def rise(new: Tensor) -> float:
        """Of the loss, with the same keys and labels."""
        with torch.no_grad():
            embedding = model({**features, "input_ids": new})["sentence_embedding"]
            return (objective._mccl(embedding, LABELS, keys, LABELS) - first.losses["mccl"]).item()

    assert rise(ids) == pytest.approx(0, abs=1e-5)
    salient = perturbation.choose(gradient_norm(gradient), valid, 0.15)
    rises: dict[str, list[float]] = {"hotflip": [], "random": [], "anywhere": []}
    for seed in range(5):
        torch.manual_seed(seed)
        pool = objective.candidates[torch.randperm(len(objective.candidates))[: config.pool_size]]
        anywhere = perturbation.choose(torch.rand(ids.shape), valid, 0.15)
        for name, new in (
            ("hotflip", perturbation.hotflip_tokens(ids, salient, gradient, matrix, pool)),
            ("random", perturbation.random_tokens(ids, salient, objective.candidates)),
            ("anywhere", perturbation.random_tokens(ids, anywhere, objective.candidates)),
        ):
            rises[name].append(rise(new))
    by_choice = torch.tensor(rises["hotflip"]) - torch.tensor(rises["random"])
    assert by_choice.mean() > 2 * by_choice.std() / 5**0.5, rises
    if sigma < 1:
        # With a wide kernel all keys weigh much the same, and any change that blurs a query lowers its loss.
        assert min(rises["hotflip"]) > 0
        assert fmean(rises["random"]) > fmean(rises["anywhere"]), "salient positions matter more"
