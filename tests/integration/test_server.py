"""The server as its clients meet it, and the batcher under it."""

import asyncio
import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import openai
import pytest
from fastapi.testclient import TestClient

from carl import AffectEncoder
from carl.server.app import Limits, create_app
from carl.server.batching import ClosedError, DynamicBatcher, OverloadedError

TEXTS = ["the happy child", "nobody liked the terrible storm", "😊", "x " * 400]


@pytest.fixture(scope="module")
def model(run_folder: Path) -> AffectEncoder:
    return AffectEncoder.from_pretrained(run_folder, device="cpu")


@pytest.fixture(scope="module")
def client(model: AffectEncoder) -> Iterator[TestClient]:
    with TestClient(create_app(model, name="tiny"), raise_server_exceptions=False) as running:
        yield running


def test_affect_of_one_text_and_of_many(client: TestClient, model: AffectEncoder) -> None:
    answer = client.post("/v1/affect", json={"input": TEXTS}).json()
    assert answer["model"] == "tiny"
    found = [[one["valence"], one["arousal"]] for one in answer["data"]]
    np.testing.assert_allclose(found, model.predict(TEXTS), atol=1e-3)
    assert client.post("/v1/affect", json={"input": TEXTS[0]}).json()["data"] == answer["data"][:1]


def test_the_openai_client_gets_its_embeddings(
    model: AffectEncoder, serve: Callable[..., AbstractContextManager[str]]
) -> None:
    with serve(model, api_key="secret") as url:
        asking = openai.OpenAI(base_url=f"{url}/v1", api_key="secret", max_retries=0)
        for options in ({}, {"encoding_format": "float"}):  # the client's own choice is base64
            answer = asking.embeddings.create(model="carl-minilm", input=TEXTS, **options)
            np.testing.assert_allclose([one.embedding for one in answer.data], model.encode(TEXTS), atol=1e-5)
            assert [one.index for one in answer.data] == [0, 1, 2, 3]
            assert answer.usage.total_tokens > 400
        with pytest.raises(openai.AuthenticationError):
            asking.with_options(api_key="wrong").embeddings.create(model="carl-minilm", input="x")


def test_base64_is_little_endian_float32(client: TestClient, model: AffectEncoder) -> None:
    answer = client.post("/v1/embeddings", json={"input": TEXTS[0], "encoding_format": "base64"}).json()
    vector = np.frombuffer(base64.b64decode(answer["data"][0]["embedding"]), "<f4")
    np.testing.assert_allclose(vector, model.encode(TEXTS[0]), atol=1e-6)


def test_explanations(client: TestClient, model: AffectEncoder) -> None:
    answer = client.post("/v1/explain", json={"input": "the happy child"}).json()
    assert [token["token"] for token in answer["tokens"]] == ["the", "happy", "child"]
    assert answer["valence"] == pytest.approx(model.predict("the happy child")[0], abs=1e-4)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 422, "input"),
        ({"input": []}, 422, "input"),
        ({"input": ["x"] * 257}, 422, "256"),
        ({"input": "x" * 20_001}, 422, "20000"),
        ({"input": 3}, 422, "input"),
        ({"input": "x", "modle": "y"}, 422, "modle"),
        ({"input": ["x" * 19_000] * 100}, 413, "larger than"),
    ],
)
def test_what_is_too_much_or_wrong_is_refused_with_the_reason(
    client: TestClient, body: dict, status: int, words: str
) -> None:
    answer = client.post("/v1/affect", json=body)
    assert answer.status_code == status
    assert words in answer.json()["error"]["message"]


def test_other_bad_requests(client: TestClient) -> None:
    assert client.post("/v1/affect", content=iter([b"{}"])).status_code == 411
    for content in (b"", b"nonsense", b"\xff\xfe", b'{"input": "\\ud800"}'):
        answer = client.post("/v1/affect", content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code in (200, 422)
    missing = client.get("/v1/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "invalid_request_error"


def test_the_key_is_asked_for_where_there_is_one(model: AffectEncoder) -> None:
    with TestClient(create_app(model, api_key="secret")) as client:
        assert client.get("/healthz").status_code == 200
        for headers in (
            {},
            {"Authorization": b"Bearer s\xe9cret"},
            {"Authorization": "Basic secret"},
        ):
            answer = client.post("/v1/affect", json={"input": "x"}, headers=headers)
            assert answer.status_code == 401
            assert "API key" in answer.json()["error"]["message"]
        assert client.post(
            "/v1/affect", json={"input": "x"}, headers={"Authorization": "Bearer secret"}
        ).is_success


def test_health_metrics_and_interface(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    client.post("/v1/affect", json={"input": "x"})
    text = client.get("/metrics").text
    assert 'carl_requests_total{path="/v1/affect",status="200"}' in text
    assert "carl_batch_texts_bucket" in text
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/v1/affect", "/v1/embeddings", "/v1/explain", "/healthz", "/readyz", "/metrics"} <= paths.keys()
    assert "429" in paths["/v1/affect"]["post"]["responses"]
    assert "<textarea" in client.get("/").text


def test_text_as_it_is_typed(client: TestClient, model: AffectEncoder) -> None:
    with client.websocket_connect("/v1/live") as typing:
        for text in ("the", "the happy", "the happy child"):
            typing.send_text(text)
            answer = typing.receive_json()
            assert answer["text"] == text
            assert answer["valence"] == pytest.approx(model.predict(text)[0], abs=1e-3)


def test_overload_is_refused_and_passes(model: AffectEncoder) -> None:
    slow = threading.Event()

    class Slow(AffectEncoder):
        def encode(self, texts: list[str]) -> np.ndarray:
            slow.wait(10)
            return super().encode(texts)

    held = Slow(model.encoder, model.weight, model.bias)
    slow.set()
    with TestClient(create_app(held, limits=Limits(waiting=8, batch=4))) as client:
        slow.clear()
        statuses: list[int] = []

        def ask() -> None:
            answer = client.post("/v1/affect", json={"input": ["x", "y"]})
            statuses.append(answer.status_code)
            if answer.status_code == 429:
                assert int(answer.headers["Retry-After"]) >= 1

        threads = [threading.Thread(target=ask) for _ in range(10)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        slow.set()
        for thread in threads:
            thread.join(20)
        assert sorted(set(statuses)) == [200, 429]
        assert statuses.count(200) == 4
        assert client.post("/v1/affect", json={"input": "x"}).status_code == 200


# --- the batcher ----------------------------------------------------------------------------------------------


def lengths(texts: list[str]) -> np.ndarray:
    return np.array([[len(text)] for text in texts], dtype=np.float32)


def test_concurrent_requests_share_batches_and_get_their_own_answers() -> None:
    sizes: list[int] = []

    def encode(texts: list[str]) -> np.ndarray:
        time.sleep(0.01)
        return lengths(texts)

    async def go() -> list[np.ndarray]:
        batcher = DynamicBatcher(encode, largest=16, observe=sizes.append)
        await batcher.start()
        answers = await asyncio.gather(*(batcher(["x" * n] * (n % 3 + 1)) for n in range(40)))
        assert batcher.pending == 0
        await batcher.close()
        with pytest.raises(ClosedError):
            await batcher(["late"])
        return answers

    answers = asyncio.run(go())
    assert [a.ravel().tolist() for a in answers] == [[n] * (n % 3 + 1) for n in range(40)]
    assert sum(sizes) == sum(n % 3 + 1 for n in range(40))
    assert max(sizes) <= 16
    assert len(sizes) < 12


def test_closing_answers_what_waits() -> None:
    async def go() -> list[np.ndarray]:
        batcher = DynamicBatcher(lengths, largest=2)
        await batcher.start()
        asked = [asyncio.create_task(batcher([text])) for text in ("a", "bb", "ccc", "dddd", "eeeee")]
        await asyncio.sleep(0)
        await batcher.close()
        return await asyncio.gather(*asked)

    assert [float(a[0, 0]) for a in asyncio.run(go())] == [1, 2, 3, 4, 5]


def test_a_failing_batch_fails_its_own_requests_alone() -> None:
    def encode(texts: list[str]) -> np.ndarray:
        if "bad" in texts:
            raise ValueError("cannot")
        return lengths(texts)

    async def go() -> None:
        batcher = DynamicBatcher(encode, largest=1)
        await batcher.start()
        results = await asyncio.gather(*(batcher([t]) for t in ("a", "bad", "ccc")), return_exceptions=True)
        assert isinstance(results[1], ValueError)
        assert [float(results[i][0, 0]) for i in (0, 2)] == [1, 3]
        assert batcher.pending == 0
        await batcher.close()

    asyncio.run(go())


def test_a_request_that_was_given_up_is_not_computed() -> None:
    seen: list[str] = []

    def encode(texts: list[str]) -> np.ndarray:
        seen.extend(texts)
        time.sleep(0.02)
        return lengths(texts)

    async def go() -> None:
        batcher = DynamicBatcher(encode, largest=1, waiting=3)
        await batcher.start()
        asked = [asyncio.create_task(batcher([text])) for text in ("a", "b", "c")]
        await asyncio.sleep(0.005)
        with pytest.raises(OverloadedError):
            await batcher(["d"])
        asked[1].cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert batcher.pending == 0
        await batcher.close()

    asyncio.run(go())
    assert seen == ["a", "c"]
