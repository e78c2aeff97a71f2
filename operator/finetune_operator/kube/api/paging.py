"""Pages of lists, bounded in bytes.

A page of 500 usual objects has 5 MB; one of objects at the API server's size limit has 700 MB. A
page that is too large is dropped unread and requested again with fewer objects. The limit that
fitted is remembered. As a middleware of the session it also applies to a library's lists.
"""

from __future__ import annotations

import aiohttp

MAX_PAGE_BYTES = 2 * 2**20


class PagedResponse(aiohttp.ClientResponse):
    """A response whose body may be refused while it comes."""

    async def read_at_most(self, max_bytes: int) -> bool:
        """Read the body, unless it is larger; return whether it is there to be read."""
        chunks, size = [], 0
        # Not ``iter_any``: it ends at an empty piece, and a compressed body may start with one.
        while not self.content.at_eof():
            chunk = await self.content.readany()
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                return False
        self._body = b"".join(chunks)
        return True


class BoundedPages:
    """Asks for fewer objects where a page of a list would exceed ``max_bytes``.

    One object alone may be larger.
    """

    def __init__(self, max_bytes: int = MAX_PAGE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._fitting: dict[str, int] = {}

    async def __call__(
        self, request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        """Send a request; a list with a limit again until a page fits."""
        asked = request.url.query.get("limit", "")
        if request.method != "GET" or not asked.isdecimal() or int(asked) <= 1:
            return await handler(request)
        path, wanted = request.url.path, int(asked)
        limit = min(wanted, self._fitting.get(path, wanted))
        while True:
            if limit < wanted:
                request.url = request.url.update_query(limit=str(limit))
            response = await handler(request)
            assert isinstance(response, PagedResponse)
            if response.status != 200:
                return response
            try:
                fits = limit == 1 or await response.read_at_most(self._max_bytes)
            except BaseException:
                # No other code has the response yet: a cancelled list would leak its connection.
                response.close()
                raise
            if fits:
                self._remember(path, 2 * limit, wanted)
                return response
            response.close()
            limit = max(1, limit // 4)
            self._remember(path, limit, wanted)

    def _remember(self, path: str, limit: int, wanted: int) -> None:
        """Note the next limit; it grows with each page that fits."""
        if limit < wanted:
            self._fitting[path] = limit
        else:
            self._fitting.pop(path, None)
