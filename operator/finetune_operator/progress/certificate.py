"""The certificate of the progress endpoint: served, renewed in place, with its expiry.

A renewed Secret changes its files below a running process, so they are read every minute.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
import ssl
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge

logger = logging.getLogger(__name__)

RELOAD_SECONDS = 60.0
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----\s+(.+?)\s+-----END CERTIFICATE-----", re.DOTALL)


class ServingCertificate:
    """A certificate with its key, from files that may be replaced.

    Raises:
        OSError: A file is missing or the two do not fit.
    """

    def __init__(self, certificate: str, key: str, *, registry: CollectorRegistry) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._paths = (Path(certificate), Path(key))
        self._loaded: tuple[bytes, ...] = ()
        self._expiry = Gauge(
            "finetune_progress_certificate_expiry_timestamp_seconds",
            "When the certificate that the progress endpoint serves runs out, as Unix time.",
            registry=registry,
        )
        self.load()

    def load(self) -> None:
        """Load the files if they have changed; new connections then get the new certificate."""
        found = tuple(path.read_bytes() for path in self._paths)
        if found == self._loaded:
            return
        certificate, key = self._paths
        expiry = not_after(found[0])
        # A pair that does not fit makes its context unusable: no handshake succeeds.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        self.context.load_cert_chain(certificate, key)
        self._expiry.set(expiry.timestamp())
        self._loaded = found
        logger.info("serving the certificate %s, valid until %s", certificate, expiry.isoformat())

    async def run(self) -> None:
        """Check for a renewed certificate until cancelled; an unusable one is not loaded."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                self.load()
            except (OSError, ValueError) as error:
                logger.warning("cannot load %s, serving the old one: %s", self._paths[0], error)


def not_after(pem: bytes) -> datetime:
    """Return the time until which the first certificate of a PEM file is valid.

    Raises:
        ValueError: No certificate, or none that can be read.
    """
    match = _PEM.search(pem)
    if match is None:
        raise ValueError("no certificate in PEM form")
    try:
        body = _content(base64.b64decode(match[1]), 0)  # Certificate
        fields = _content(body, 0)  # tbsCertificate
        position = _end(fields, 0) if fields[0] == 0xA0 else 0  # version
        for _ in range(3):  # serialNumber, signature, issuer
            position = _end(fields, position)
        validity = _content(fields, position)
        tag, text = validity[_end(validity, 0)], _content(validity, _end(validity, 0)).decode()
    except IndexError as error:
        raise ValueError("the certificate is cut off") from error
    # RFC 5280, 4.1.2.5: UTCTime up to 2049, GeneralizedTime from then on, both in UTC.
    if tag == 0x17:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _header(der: bytes, position: int) -> tuple[int, int]:
    """Return where the content of the element at a position begins and ends."""
    length = der[position + 1]
    begin = position + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[begin : begin + count], "big")
        begin += count
    return begin, begin + length


def _content(der: bytes, position: int) -> bytes:
    begin, end = _header(der, position)
    return der[begin:end]


def _end(der: bytes, position: int) -> int:
    return _header(der, position)[1]
