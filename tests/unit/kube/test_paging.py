"""Pages of lists: what happens to a page that is interrupted."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from yarl import URL

from finetune_operator.kube.api.paging import BoundedPages, PagedResponse


class InterruptedPage(PagedResponse):
    """A page whose body never comes whole."""

    status = 200

    def __init__(self, interruption: BaseException) -> None:
        self._interruption = interruption
        self._closed = True
        self.was_closed = False

    async def read_at_most(self, max_bytes: int) -> bool:
        raise self._interruption

    def close(self) -> None:
        self.was_closed = True


class ListRequest(aiohttp.ClientRequest):
    """The parts of a request for a list that the middleware reads."""

    method = "GET"
    url = URL("http://127.0.0.1/api/v1/pods?limit=500")

    def __init__(self) -> None: ...


@pytest.mark.parametrize("interruption", [asyncio.CancelledError(), aiohttp.ClientPayloadError()])
async def test_a_page_that_is_interrupted_gives_its_connection_back(interruption):
    page = InterruptedPage(interruption)

    async def answer(_: aiohttp.ClientRequest) -> aiohttp.ClientResponse:
        return page

    with pytest.raises(type(interruption)):
        await BoundedPages()(ListRequest(), answer)
    assert page.was_closed
