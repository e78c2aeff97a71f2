"""E-mail and IP addresses. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from finetune_trainer.prepare.privacy.matches import Match, Text, words

LONGEST_LOCAL_PART = 64

_DOMAIN = re.compile(
    r"(?<=[\w+\-])@((?:[^\W_](?:[^\W_]|-){0,62}\.){1,8}([^\W\d_]{2,24}|xn--[a-z0-9-]{2,59}))(?![\w@])"
)
_USER_OF_URL = re.compile(r"[A-Za-z0-9]://[^\s/@?#]*$")
_LONGEST_USER = 160
# `icon@2x.png` has the shape of an address.
_FILES = frozenset(
    ("png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "bmp", "pdf", "css", "scss", "less", "html",
     "htm", "xml", "json", "yaml", "yml", "toml", "csv", "txt", "js", "jsx", "tsx", "mjs", "cjs",
     "vue", "java", "class", "jar", "exe", "dll", "zip", "gz", "tar", "whl")
)  # fmt: skip

_OCTET = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = re.compile(rf"(?<![\w.])({_OCTET}(?:\.{_OCTET}){{3}})(?![\w]|\.\d(?!\d*\s)|-[A-Za-z])")
_DOTTED = re.compile(r"\.\d{1,3}\.\d{1,3}\.\d")
_HEXTET = "[0-9A-Fa-f]{1,4}"
# Global addresses begin with four digits; the others have an IPv4 address in them (RFC 4291, 6052).
_IPV6 = re.compile(
    rf"(?:(?<![\w:.])|(?<=\bip6:))(?:(?:[0-9A-Fa-f]{{4}}|64:[Ff]{{2}}9[Bb]|::(?:0:)?[Ff]{{4}}|(?:0{{1,4}}:){{5}}[Ff]{{4}})"
    rf"(?::{{1,2}}{_HEXTET}){{0,6}}:{{1,2}}(?:{_OCTET}(?:\.{_OCTET}){{3}}|{_HEXTET})?)(?![\w:]|\.\d)"
)
_IP_WORDS = words("ip(?:v[46])?", "ip[ -]?addr(?:ess)?e?", "host")
# A number in four parts behind one of these is no address.
_VERSION = re.compile(
    r"(?<![^\W_])(?:version|versie|versi[oó]n|vers|ver|release|build|firmware|driver|sections?|sect|chapter|"
    r"clause|abschnitt|kapitel|oid|rev|revision|update|upgrade|v|§)\W{0,3}$|"
    r"[=<>~!]=\s?$|[~^]$|[A-Za-z][/\-]$",
    re.IGNORECASE,
)
_RESOLVERS = frozenset({"1.1.1.1", "1.0.0.1", "8.8.8.8", "8.8.4.4", "9.9.9.9"})
_HIGHEST_OF_VERSIONS = 20


def find_emails(text: Text) -> Iterator[Match]:
    """Find e-mail addresses, also of internationalised domains.

    `git@host:path` is a repository, `icon@2x.png` a file; before a URL's host stands a user.
    """
    if "@" not in text.folded:
        return
    for found in _DOMAIN.finditer(text.folded):
        before = text.folded[max(0, found.start() - LONGEST_LOCAL_PART) : found.start()]
        local = _local_part(before)
        top = found.group(2).lower()
        if not local or top in _FILES or (local == "git" and text.folded[found.end() :][:1] == ":"):
            continue
        start = found.start() - len(local)
        if _USER_OF_URL.search(text.folded[max(0, start - _LONGEST_USER) : start]):
            continue
        yield Match("Email", start, found.end(), f"{local}@{found.group(1)}".casefold())


def _local_part(before: str) -> str:
    start = len(before)
    while start and (before[start - 1].isalnum() or before[start - 1] in "._+%'&-"):
        start -= 1
    return before[start:].lstrip(".+%'&-")


def find_ip_addresses(text: Text) -> Iterator[Match]:
    """Find addresses of the public Internet, and those reserved for examples.

    Private and special addresses and version numbers are left alone.
    """
    if _DOTTED.search(text.folded):
        yield from _find_ipv4(text)
    if text.folded.count(":") >= 2:
        for found in _IPV6.finditer(text.folded):
            address = _read_ipv6(found.group())
            if address is not None:
                yield Match("IPAddress", *found.span(), str(address))


def _find_ipv4(text: Text) -> Iterator[Match]:
    for found in _IPV4.finditer(text.folded):
        address = found.group(1)
        before = text.folded[max(0, found.start() - 16) : found.start()]
        octets = [int(octet) for octet in address.split(".")]
        if address in _RESOLVERS or octets[3] == 0 or not _names_somebody(address):
            continue
        if _VERSION.search(before):
            continue
        if max(octets) < _HIGHEST_OF_VERSIONS and not _IP_WORDS.search(before):
            continue
        yield Match("IPAddress", *found.span(), address)


def _names_somebody(address: str) -> bool:
    parsed = ipaddress.IPv4Address(address)
    return parsed.is_global or any(parsed in network for network in _EXAMPLES_V4)


def _read_ipv6(written: str) -> ipaddress.IPv6Address | None:
    try:
        address = ipaddress.IPv6Address(written)
    except ValueError:
        return None
    if address.ipv4_mapped or address in _NAT64:
        inner = address.ipv4_mapped or ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address if _names_somebody(str(inner)) else None
    named = (address.is_global and address in _UNICAST) or address in _EXAMPLES_V6
    return address if named and any(c.isdigit() for c in written) else None


_EXAMPLES_V4 = tuple(
    ipaddress.IPv4Network(network)
    for network in ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "198.18.0.0/15")
)
_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_EXAMPLES_V6 = ipaddress.IPv6Network("2001:db8::/32")
