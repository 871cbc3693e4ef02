"""``carl serve``."""

import importlib.util
from typing import Annotated

import typer

from carl.errors import UsageError
from carl.terminal import quiet_libraries, say


def serve(
    model: Annotated[
        str, typer.Option(help="Model folder, or carl-minilm, which comes with the package.")
    ] = "carl-minilm",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    backend: Annotated[str, typer.Option(help="torch, torch-bf16 or openvino.")] = "torch",
    api_key: Annotated[
        str | None,
        typer.Option(envvar="CARL_API_KEY", help="Asked of every request; better given in the environment."),
    ] = None,
    waiting: Annotated[
        int, typer.Option(min=1, help="Texts that may wait; more are refused with 429.")
    ] = 1024,
) -> None:
    """Serve scores, OpenAI-compatible embeddings, explanations and a page over HTTP."""
    if importlib.util.find_spec("fastapi") is None or importlib.util.find_spec("uvicorn") is None:
        raise UsageError("the server is not installed; run `pip install carl-affect[server]`")
    import uvicorn

    from carl.model import AffectEncoder
    from carl.server.app import Limits, create_app

    quiet_libraries()
    encoder = AffectEncoder.from_pretrained(model, backend=backend)
    app = create_app(
        encoder, name=model.rstrip("/").rpartition("/")[2], api_key=api_key, limits=Limits(waiting=waiting)
    )
    say(f"http://{host}:{port}/ shows the page, http://{host}:{port}/docs the interface; Ctrl-C ends it")
    uvicorn.run(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=30)
