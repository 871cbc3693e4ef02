"""Texts of concurrent requests share batches: while one is being computed, what arrives waits for the next."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]


class OverloadedError(Exception):
    """More texts wait than the server takes on; ``retry_after`` is in seconds."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"the server is at its limit; try again in {retry_after} s")
        self.retry_after = retry_after


class ClosedError(Exception):
    """The server is shutting down."""


@dataclass
class _Request:
    texts: list[str]
    answer: asyncio.Future[Vectors]


class DynamicBatcher:
    """Embeds the texts of concurrent callers together, in one worker thread.

    Args:
        encode: n texts -> (n, d); called with at most ``largest`` texts, unless one request alone has more.
        largest: texts of a batch.
        waiting: texts that may wait; a request that would exceed it is refused.
        observe: told the size of every batch.
    """

    def __init__(
        self,
        encode: Callable[[list[str]], Vectors],
        *,
        largest: int = 64,
        waiting: int = 1024,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._encode, self._largest, self._most, self._observe = encode, largest, waiting, observe
        self._requests: deque[_Request] = deque()
        self._arrived, self._closed = asyncio.Event(), False
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encoder")
        self._pace = 0.01  # seconds a text, smoothed
        self._task: asyncio.Task[None] | None = None
        self.pending = 0

    async def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Refuse what comes, answer what waits, and stop."""
        self._closed = True
        self._arrived.set()
        if self._task is not None:
            await self._task
        self._worker.shutdown()

    async def __call__(self, texts: list[str]) -> Vectors:
        """(n, d) embeddings of n texts.

        Raises:
            OverloadedError: too many texts wait already.
            ClosedError: the server is shutting down.
        """
        if self._closed:
            raise ClosedError
        if self.pending and self.pending + len(texts) > self._most:
            raise OverloadedError(max(1, round(self.pending * self._pace)))
        request = _Request(texts, asyncio.get_running_loop().create_future())
        self._requests.append(request)
        self.pending += len(texts)
        self._arrived.set()
        return await request.answer

    async def run(self, function: Callable[[], object]) -> object:
        """Anything else for the model, between two batches."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, function)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._arrived.wait()
            batch = self._next_batch()
            if not batch:
                if self._closed:
                    return
                self._arrived.clear()
                continue
            texts = [text for request in batch for text in request.texts]
            started = time.perf_counter()
            try:
                vectors = await loop.run_in_executor(self._worker, self._encode, texts)
            except Exception as error:
                for request in batch:
                    with contextlib.suppress(asyncio.InvalidStateError):
                        request.answer.set_exception(error)
                continue
            finally:
                self.pending -= len(texts)
            self._observe(len(texts))
            self._pace += 0.2 * ((time.perf_counter() - started) / max(1, len(texts)) - self._pace)
            start = 0
            for request in batch:
                end = start + len(request.texts)
                with contextlib.suppress(asyncio.InvalidStateError):  # whoever asked has gone
                    request.answer.set_result(vectors[start:end])
                start = end

    def _next_batch(self) -> list[_Request]:
        batch: list[_Request] = []
        size = 0
        while self._requests and (not batch or size + len(self._requests[0].texts) <= self._largest):
            request = self._requests.popleft()
            if request.answer.cancelled():
                self.pending -= len(request.texts)
                continue
            batch.append(request)
            size += len(request.texts)
        return batch
