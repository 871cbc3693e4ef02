"""The HTTP interface; see ``schemas`` for the bodies and ``batching`` for how requests share the encoder."""

import base64
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Request, Response, WebSocket, WebSocketDisconnect
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from carl.model import AffectEncoder, Explanation
from carl.scores import score_embeddings
from carl.server.batching import ClosedError, DynamicBatcher, OverloadedError
from carl.server.schemas import (
    MOST_CHARACTERS,
    Affect,
    AffectRequest,
    AffectResponse,
    Embedding,
    EmbeddingRequest,
    EmbeddingResponse,
    ExplainRequest,
    ExplainResponse,
    Usage,
    responses,
)

PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class Limits:
    """What the server takes on.

    Attributes:
        body: bytes of a request.
        waiting: texts that may wait for the encoder.
        batch: texts that are embedded together.
    """

    body: int = 1 << 20
    waiting: int = 1024
    batch: int = 64


def create_app(
    model: AffectEncoder,
    *,
    name: str = "carl-minilm",
    api_key: str | None = None,
    limits: Limits | None = None,
) -> FastAPI:
    """The application around a model.

    Args:
        model: what is served.
        name: what it is called in answers.
        api_key: asked of every request to ``/v1``, as ``Authorization: Bearer``; None asks for none.
        limits: see ``Limits``.
    """
    limits = limits or Limits()
    registry = CollectorRegistry()
    requests = Counter("carl_requests_total", "Requests answered.", ["path", "status"], registry=registry)
    latency = Histogram("carl_request_seconds", "Time to answer.", ["path"], registry=registry)
    sizes = Histogram(
        "carl_batch_texts",
        "Texts embedded together.",
        buckets=[1, 2, 4, 8, 16, 32, 64, 128, 256],
        registry=registry,
    )
    batcher = DynamicBatcher(
        model.encode, largest=limits.batch, waiting=limits.waiting, observe=sizes.observe
    )
    waiting = Gauge("carl_waiting_texts", "Texts that wait or are being embedded.", registry=registry)
    waiting.set_function(lambda: batcher.pending)
    ready = False

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        nonlocal ready
        await batcher.start()
        await batcher(["warm"])
        ready = True
        yield
        ready = False
        await batcher.close()

    app = FastAPI(title="CARL", summary="Valence, arousal and emotion of texts.", lifespan=lifespan)
    bearer = HTTPBearer(auto_error=False)

    async def authorised(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if api_key is not None and (
            given is None or not hmac.compare_digest(given.credentials.encode(), api_key.encode())
        ):
            raise HTTPException(
                401, "give the API key as Authorization: Bearer", {"WWW-Authenticate": "Bearer"}
            )

    guarded: dict[str, Any] = {
        "dependencies": [Depends(authorised)],
        "responses": responses(400, 401, 411, 413, 422, 429, 503),
    }

    @app.middleware("http")
    async def watch(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        started = time.perf_counter()
        length = request.headers.get("content-length", "")
        response: Response
        if request.method == "POST" and not length.isdecimal():
            response = _problem(411, "say how long the body is (Content-Length)")
        elif length.isdecimal() and int(length) > limits.body:
            response = _problem(413, f"the body is larger than {limits.body:,} bytes; send fewer texts")
        else:
            response = await call(request)
        route = request.scope.get("route")
        path = getattr(route, "path", "other")
        requests.labels(path, str(response.status_code)).inc()
        latency.labels(path).observe(time.perf_counter() - started)
        return response

    @app.exception_handler(HTTPException)
    async def _refused(request: Request, error: HTTPException) -> JSONResponse:
        return _problem(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        # Of the two forms that input may have, the one that it nearly has says more than the one it does not have.
        first = min(error.errors(), key=lambda e: e["type"] in ("string_type", "list_type"))
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        return _problem(422, f"{where or 'body'}: {first['msg']}", param=where or None)

    @app.exception_handler(OverloadedError)
    async def _overloaded(request: Request, error: OverloadedError) -> JSONResponse:
        return _problem(429, str(error), {"Retry-After": str(error.retry_after)})

    @app.exception_handler(ClosedError)
    async def _closed(request: Request, error: ClosedError) -> JSONResponse:
        return _problem(503, "the server is shutting down", {"Retry-After": "5"})

    @app.post("/v1/affect", response_model_exclude_none=True, **guarded)
    async def affect(body: AffectRequest) -> AffectResponse:
        """Valence, arousal, their intervals and the emotion of texts."""
        vectors = await batcher(_texts(body.input))
        return AffectResponse(
            model=name, data=[Affect(**record) for record in score_embeddings(model, vectors)]
        )

    @app.post("/v1/embeddings", **guarded)
    async def embeddings(body: EmbeddingRequest) -> EmbeddingResponse:
        """Embeddings, as OpenAI's clients ask for them."""
        texts = _texts(body.input)
        vectors = await batcher(texts)
        tokens = sum(len(ids) for ids in model.encoder.tokenizer(texts, verbose=False)["input_ids"])
        packed = [
            base64.b64encode(row.astype("<f4").tobytes()).decode()
            if body.encoding_format == "base64"
            else row.tolist()
            for row in np.asarray(vectors)
        ]
        return EmbeddingResponse(
            data=[Embedding(index=i, embedding=e) for i, e in enumerate(packed)],
            model=name,
            usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
        )

    @app.post("/v1/explain", **guarded)
    async def explain(body: ExplainRequest) -> ExplainResponse:
        """Which tokens of a text carry its affect."""
        found = await batcher.run(lambda: model.explain(body.input))
        assert isinstance(found, Explanation)
        return ExplainResponse.of(found)

    @app.websocket("/v1/live")
    async def live(socket: WebSocket) -> None:
        """A text as it is typed comes in, its scores go out, one answer for each."""
        given = socket.headers.get("authorization", "").removeprefix("Bearer ")
        if api_key is not None and not hmac.compare_digest(given.encode(), api_key.encode()):
            await socket.close(1008)
            return
        await socket.accept()
        try:
            while True:
                text = (await socket.receive_text())[:MOST_CHARACTERS]
                try:
                    (record,) = score_embeddings(model, await batcher([text]))
                except OverloadedError as error:
                    record = {"error": str(error)}
                await socket.send_text(json.dumps({"text": text, **record}))
        except WebSocketDisconnect:
            return

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses=responses(503))
    async def readyz() -> JSONResponse:
        """The model answers."""
        return JSONResponse({"status": "ready"}) if ready else _problem(503, "not ready")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """For Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", response_class=HTMLResponse)
    async def page() -> str:
        """The page."""
        return PAGE.read_text(encoding="utf-8")

    return app


def _texts(given: str | list[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)


def _problem(status: int, message: str, headers: Any = None, *, param: str | None = None) -> JSONResponse:
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(
        status, "invalid_request_error" if status < 500 else "server_error"
    )
    error = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": error}, status, headers)
