"""The grid of methods: what is left to do, cells that survive a kill, numbers that can be had again, and the page."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from carl.bench import grid, report, suites
from carl.bench.cells import Cell, append_cell, pack, read_cells, unpack
from carl.bench.grid import Job, fingerprint, planned, run_job
from carl.bench.methods import BY_NAME, METHODS
from carl.config import CarlConfig
from carl.data import load_corpus, load_task
from carl.errors import CarlError, UsageError
from carl.trainer import labels_of

ROOT = Path(__file__).parents[2]


def cell(method: str = "carl", seed: int = 0, suite: str = "polarity", **parts: object) -> Cell:
    values = {"scores": {}, "items": {}, "config": {}, "data": {}, "versions": {}, "notes": []} | parts
    return Cell(
        backbone="minilm",
        method=method,
        seed=seed,
        suite=suite,
        device="CPU",
        seconds={"train": 60.0, "measure": 30.0},
        **values,
    )


@pytest.fixture
def recipe(tiny_backbone: Path, ratings_csv: Callable[..., Path]) -> CarlConfig:
    return CarlConfig(
        data=[str(ratings_csv())],
        valence="valence",
        arousal="arousal",
        scale=[1, 9],
        backbone=str(tiny_backbone),
        epochs=1,
        batch_size=16,
        queue_size=32,
        pool_size=32,
        precision="fp32",
        evaluations=1,
    )


def test_a_method_with_a_recipe_of_its_own_shares_backbone_and_arithmetic(
    recipe: CarlConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    config = grid.configuration(Job(BY_NAME["mse-taught"], 3, ()), recipe, tmp_path)
    assert (config.backbone, config.precision, config.seed) == (recipe.backbone, recipe.precision, 3)
    assert (config.teacher_share, config.mccl_weight, config.distillation_weight) == (0.5, 0, 0)
    assert config.output == str(tmp_path / recipe.backbone.replace("/", "-") / "mse-taught-3")


@pytest.fixture
def small_suites(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two suites that need no corpus."""
    fewer = {"geometry": suites.polarity, "polarity": suites.polarity}
    monkeypatch.setattr(grid, "SUITES", fewer)


def test_cells_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    cells = [
        cell(seed=seed, scores={"mr": {"accuracy": 0.5}}, items={"mr": pack([1, 0])}) for seed in range(3)
    ]
    for one in cells:
        append_cell(path, one)
    assert read_cells(path) == cells


def test_a_line_that_a_kill_cut_short_is_lost_alone(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    append_cell(path, cell(seed=0))
    append_cell(path, cell(seed=1))
    path.write_bytes(path.read_bytes()[:-20])
    assert [c.seed for c in read_cells(path)] == [0]
    append_cell(path, cell(seed=2))
    assert [c.seed for c in read_cells(path)] == [0, 2]


@pytest.mark.parametrize("damage", ["{}\n", "nonsense\n", '{"backbone": 1}\n'])
def test_other_damage_is_named(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    append_cell(path, cell())
    with path.open("a") as file:
        file.write(damage)
    with pytest.raises(CarlError, match="line 2"):
        read_cells(path)


def test_a_repeated_cell_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    append_cell(path, cell())
    append_cell(path, cell())
    with pytest.raises(CarlError, match="line 2: repeats"):
        read_cells(path)


def test_predictions_survive_packing() -> None:
    draw = np.random.default_rng(0)
    reals = draw.normal(size=1000).clip(-3, 3)
    np.testing.assert_allclose(unpack(pack(reals)), reals, atol=5.1e-5)
    classes = draw.integers(7, size=1000)
    assert unpack(pack(classes)).tolist() == classes.tolist()
    assert unpack(pack(classes > 3)).tolist() == (classes > 3).astype(int).tolist()
    with pytest.raises(ValueError, match="finite"):
        pack(np.array([np.nan]))


def test_every_method_is_a_valid_configuration() -> None:
    for method in METHODS:
        if method.changes is not None:
            shared = CarlConfig() if method.recipe is None else CarlConfig.from_yaml(ROOT / method.recipe)
            dataclasses.replace(shared, **method.changes)
    assert {m.name: m.seeds for m in METHODS if m.seeds == 5} == dict.fromkeys(
        ["mse", "carl", "carl-taught", "mccl", "supcon"], 5
    )


def test_the_plan_begins_with_one_seed_of_everything_and_leaves_out_what_is_done(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    jobs = planned(path, "minilm", [], None, [])
    assert [job.seed for job in jobs] == sorted(job.seed for job in jobs)
    assert len(jobs) == sum(method.seeds for method in METHODS)
    append_cell(path, cell("mse", 0, "polarity"))
    (job,) = (j for j in planned(path, "minilm", ["mse"], 1, []))
    assert job == Job(BY_NAME["mse"], 0, ("ratings", "transfer", "geometry"))
    assert planned(path, "minilm", ["mse"], 1, ["polarity"]) == []
    for wrong in ({"methods": ["bse"], "suites": []}, {"methods": [], "suites": ["x"]}):
        with pytest.raises(UsageError, match="choose from"):
            planned(path, "minilm", seeds=None, **wrong)


def test_the_estimate_follows_from_finished_cells(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    jobs = planned(path, "minilm", ["mse"], 2, [])
    assert "known when the first are finished" in grid.estimate(path, jobs)
    for suite in suites.SUITES:
        append_cell(path, cell("mse", 0, suite))
    text = grid.estimate(path, planned(path, "minilm", ["mse"], 4, []))
    assert "12 cells on 3 models" in text
    assert "0.1 hours" in text  # three times a minute of training and four halves of measuring: 9 minutes


def test_a_cell_can_be_had_again_exactly(recipe: CarlConfig, small_suites: None, tmp_path: Path) -> None:
    found = []
    for attempt in ("first", "second"):
        results = tmp_path / f"{attempt}.jsonl"
        run_job(Job(BY_NAME["carl"], 3, ("polarity",)), recipe, results, tmp_path / attempt, print)
        found += [fingerprint(c) for c in read_cells(results)]
    assert len(found) == 2
    assert found[0] == found[1]


def test_a_killed_job_goes_on_with_the_suite_it_was_at(
    recipe: CarlConfig, small_suites: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, runs = tmp_path / "cells.jsonl", tmp_path / "runs"

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(grid.SUITES, "polarity", killed)
    job = Job(BY_NAME["mccl"], 0, ("geometry", "polarity"))
    with pytest.raises(KeyboardInterrupt):
        run_job(job, recipe, results, runs, print)
    assert [c.suite for c in read_cells(results)] == ["geometry"]
    monkeypatch.setitem(grid.SUITES, "polarity", suites.polarity)
    monkeypatch.setattr(grid, "train", killed)  # the model is there: it is not trained again
    run_job(dataclasses.replace(job, suites=("polarity",)), recipe, results, runs, print)
    first, second = read_cells(results)
    assert first.scores == second.scores
    assert second.config["ptd_weight"] == 0
    assert not list(runs.rglob("checkpoints"))


def test_the_untouched_backbone_gets_a_ridge_head(
    recipe: CarlConfig, small_suites: None, tmp_path: Path
) -> None:
    results = tmp_path / "cells.jsonl"
    run_job(Job(BY_NAME["untouched"], 0, ("polarity",)), recipe, results, tmp_path, print)
    (found,) = read_cells(results)
    assert set(found.scores) == {"triplets", "valence order"}
    assert found.config == {}
    assert found.seconds["train"] == 0


def test_each_text_is_encoded_once() -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        return np.array([[float(len(text))] for text in texts])

    embed = suites.Embedder(encode)
    assert embed(["a", "bb", "a"]).tolist() == [[1], [2], [1]]
    assert embed(["ccc", "bb"]).tolist() == [[3], [2]]
    assert seen == ["a", "bb", "ccc"]


def test_the_page_says_what_the_cells_say(carl_data: Path, tmp_path: Path) -> None:
    rated = labels_of(load_corpus("emobank").splits["test"])[:, 0]
    classes = load_task("tweeteval").labels["test"]
    draw, results = np.random.default_rng(0), tmp_path / "cells.jsonl"
    for method, noise, wrong in (("untouched", 0.3, 0.4), ("mse", 0.2, 0.3), ("carl", 0.1, 0.1)):
        for seed in range(1 if method == "untouched" else 2):
            predicted = rated + draw.normal(scale=noise, size=len(rated))
            guessed = np.where(draw.random(len(classes)) < wrong, (classes + 1) % 4, classes)
            append_cell(results, cell(method, seed, "ratings", items={"EmoBank V": pack(predicted)}))
            append_cell(results, cell(method, seed, "transfer", items={"tweeteval": pack(guessed)},
                                      notes=["cr: met in training"]))  # fmt: skip
    page = report.write_report(results, tmp_path / "docs").read_text(encoding="utf-8")
    expected = np.mean([
        np.corrcoef(unpack(c.items["EmoBank V"]), rated)[0, 1]
        for c in read_cells(results) if c.method == "carl" and c.suite == "ratings"
    ])  # fmt: skip
    assert f"| CARL | 2 | **{expected * 100:.1f} ± " in page
    assert "CARL is best or not told apart from the best in 2 of 2 columns" in page
    assert (
        "against MSE fine-tuning: significantly better in 2 (EmoBank V, tweeteval), worse in 0 of 2" in page
    )
    assert "tweeteval +" in page
    assert page.count("cr: met in training") == 1
    picture = (tmp_path / "docs" / "images" / "results-minilm.svg").read_bytes()
    again = report.write_report(results, tmp_path / "again").read_text(encoding="utf-8")
    assert again == page
    assert (tmp_path / "again" / "images" / "results-minilm.svg").read_bytes() == picture


def test_no_cells_no_page(tmp_path: Path) -> None:
    with pytest.raises(CarlError, match="no finished cells"):
        report.write_report(tmp_path / "none.jsonl", tmp_path)


def test_cells_are_plain_json(tmp_path: Path) -> None:
    append_cell(tmp_path / "cells.jsonl", cell(items={"mr": pack([1, 2])}))
    (line,) = (tmp_path / "cells.jsonl").read_text().splitlines()
    assert set(json.loads(line)) == {field.name for field in dataclasses.fields(Cell)}
