"""``carl bench``: run the grid, and turn its cells into the page of results."""

from pathlib import Path
from typing import Annotated

import typer

from carl.terminal import out, quiet_libraries, say

app = typer.Typer(no_args_is_help=True, help="Every method with the same backbone, data, budget and seeds.")

Results = Annotated[Path, typer.Option(help="File of finished cells.")]
RESULTS = Path("benchmarks/results/bench.jsonl")


@app.command()
def run(
    config: Annotated[Path, typer.Option(help="Recipe that all methods share.")] = Path(
        "recipes/emobank.yaml"
    ),
    methods: Annotated[list[str] | None, typer.Option("--method", help="Only this one. Repeatable.")] = None,
    suites: Annotated[list[str] | None, typer.Option("--suite", help="Only this one. Repeatable.")] = None,
    seeds: Annotated[int | None, typer.Option(help="At most so many seeds of each method.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Another backbone than the recipe's.")] = None,
    threads: Annotated[int | None, typer.Option(help="Processor threads.")] = None,
    backend: Annotated[
        str, typer.Option(help="What embeds the texts: torch, torch-bf16 or openvino.")
    ] = "torch",
    results: Results = RESULTS,
    runs: Annotated[Path, typer.Option(help="Folder of the trained models.")] = Path("runs/bench"),
    only_plan: Annotated[
        bool, typer.Option("--plan", help="Say what is left and what it costs; run nothing.")
    ] = False,
) -> None:
    """Fill in the cells that are missing, the most telling first. May be stopped at any moment and started again."""
    import torch

    from carl.bench.grid import estimate, planned, run_job
    from carl.config import CarlConfig
    from carl.errors import UsageError
    from carl.inference import BACKENDS

    quiet_libraries()
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
    if threads:
        torch.set_num_threads(threads)
    recipe = CarlConfig.from_yaml(config, {} if backbone is None else {"backbone": backbone})
    jobs = planned(results, recipe.backbone, methods or [], seeds, suites or [])
    out.print(estimate(results, jobs), soft_wrap=True)
    if only_plan:
        for job in jobs:
            out.print(f"  {job.method.name}, seed {job.seed}: {', '.join(job.suites)}", soft_wrap=True)
        return
    for number, job in enumerate(jobs, start=1):
        say(f"model {number} of {len(jobs)}: {job.method.title}, seed {job.seed}")
        run_job(job, recipe, results, runs, say, backend)
    out.print(f"{results}: every cell asked for is there", soft_wrap=True)


@app.command()
def report(
    results: Results = RESULTS,
    folder: Annotated[Path, typer.Option(help="Where results.md and its pictures go.")] = Path("docs"),
) -> None:
    """Write the page of results from the finished cells."""
    from carl.bench.report import write_report

    quiet_libraries()
    out.print(f"{write_report(results, folder)}", soft_wrap=True)
