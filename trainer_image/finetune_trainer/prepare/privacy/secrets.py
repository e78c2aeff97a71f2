"""Keys of the main providers, JSON Web Tokens and private keys in PEM. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.prepare.privacy.matches import Match, Text, words

MIN_DISTINCT = 8
"""A key with fewer different characters is a stand-in such as ``ghp_xxxx``."""

MIN_KEY_CHARACTERS = 15
"""No key is shorter, and none has white space in it; most texts have no word as long."""

# Prefix that is sought first, then the whole key.
_KEYS: tuple[tuple[str, str], ...] = (
    ("AKIA", r"AKIA[A-Z2-7]{16}"),  # Amazon Web Services
    ("ASIA", r"ASIA[A-Z2-7]{16}"),
    ("AKIA", r"AKIA[A-Z0-9]{16}"),
    ("ASIA", r"ASIA[A-Z0-9]{16}"),
    ("gh", r"gh[pousr]_[A-Za-z0-9]{36,255}"),  # GitHub
    ("github_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    ("gl", r"gl(?:pat|dt|ptt|rt|cbt|ft|imt|agent|soat|ffct|oas)-[\w\-]{20,300}"),  # GitLab
    ("xox", r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9\-]{10,250}"),  # Slack
    ("xapp-", r"xapp-\d-[A-Z0-9]{8,16}-\d{8,16}-[a-f0-9]{32,128}"),
    ("hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows)/[A-Za-z0-9_/\-]{24,120}"),
    ("k_", r"[rsp]k_(?:live|test)_[A-Za-z0-9]{16,250}"),  # Stripe
    ("whsec_", r"whsec_[A-Za-z0-9+/=]{24,100}"),
    ("AIza", r"AIza[\w\-]{35}"),  # Google
    ("GOCSPX-", r"GOCSPX-[\w\-]{24,40}"),
    ("ya29.", r"ya29\.[\w\-]{20,500}"),
    ("sk-ant-", r"sk-ant-[a-z]{2,10}\d\d-[\w\-]{24,200}"),  # Anthropic
    ("sk-", r"sk-(?:proj|svcacct|admin|None)-[\w\-]{20,250}"),  # OpenAI
    ("sk-", r"sk-[A-Za-z0-9]{20}T3BlbkFJ[A-Za-z0-9]{20}"),
    ("sk-", r"sk-(?=[A-Za-z]{0,40}\d)[A-Za-z0-9]{32,64}"),  # OpenAI, DeepSeek and others
    ("sk-or-", r"sk-or-v1-[a-f0-9]{64}"),  # OpenRouter
    ("hf_", r"hf_[A-Za-z0-9]{34,40}"),  # Hugging Face
    ("api_org_", r"api_org_[A-Za-z0-9]{34}"),
    ("==", r"[A-Za-z0-9+/]{86}=="),  # Azure storage
    ("sig=", r"(?<=sig=)[A-Za-z0-9%]{43,70}(?:%3[dD]|=)"),
    ("npm_", r"npm_[A-Za-z0-9]{36}"),  # npm
    ("pypi-", r"pypi-AgE[\w\-]{50,300}"),  # PyPI
    ("SG.", r"SG\.[\w\-]{16,32}\.[\w\-]{16,64}"),  # SendGrid
    ("SK", r"SK[a-f0-9]{32}"),  # Twilio
    ("AC", r"AC[a-f0-9]{32}"),
    ("key-", r"key-[a-f0-9]{32}"),  # Mailgun
    ("dop_v1_", r"do[por]_v1_[a-f0-9]{64}"),  # DigitalOcean
    ("shp", r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}"),  # Shopify
    ("dapi", r"dapi[a-f0-9]{32}(?:-\d)?"),  # Databricks
    ("gsk_", r"gsk_[A-Za-z0-9]{48,64}"),  # Groq
    ("r8_", r"r8_[A-Za-z0-9]{37}"),  # Replicate
    ("pplx-", r"pplx-[A-Za-z0-9]{40,60}"),  # Perplexity
    ("hvs.", r"hv[sb]\.[\w\-]{24,250}"),  # Vault
    ("dckr_", r"dckr_pat_[\w\-]{24,40}"),  # Docker
    ("lin_api_", r"lin_api_[A-Za-z0-9]{40}"),  # Linear
    ("ntn_", r"ntn_[A-Za-z0-9]{40,50}"),  # Notion
    ("NRAK-", r"NRAK-[A-Z0-9]{27}"),  # New Relic
    ("glsa_", r"glsa_[A-Za-z0-9]{32}_[a-f0-9]{8}"),  # Grafana
    ("PMAK-", r"PMAK-[a-f0-9]{24}-[a-f0-9]{34}"),  # Postman
    ("ATATT3", r"ATATT3[\w\-=]{60,250}"),  # Atlassian
    ("sq0", r"sq0(?:atp|csp)-[\w\-]{22,60}"),  # Square
    (":AA", r"\d{8,10}:AA[\w\-]{33}"),  # Telegram
    ("AGE-SECRET-KEY-", r"AGE-SECRET-KEY-1[A-Z0-9]{58}"),
)
_START = r"(?:(?<![\w+/\-])|(?<=\\[nrt]))"  # a line break may be written as two characters
_END = r"(?![\w+/\-]|=\w)"
_PATTERNS = tuple(
    (prefix, re.compile(f"{_START}(?:{pattern}){'' if pattern.endswith('==') else _END}"))
    for prefix, pattern in _KEYS
)

_JWT = re.compile(rf"{_START}eyJ[\w\-]{{8,}}\.eyJ[\w\-]{{8,}}(?:\.[\w\-]*)?")

_AWS_SECRET = re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{40}(?![\w+/=])")
_AWS_WORDS = re.compile(r"aws|secret[ _-]?access|secret[ _-]?key", re.IGNORECASE)
_HEX_SECRET = re.compile(r"(?<![\w])[a-f0-9]{32}(?![\w])")
_TWILIO_WORDS = words("twilio", "auth[ _-]?token")

_PEM = re.compile(r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END = re.compile(r"-----END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/=\s]|\\[nr])*")


def find_api_keys(text: Text) -> Iterator[Match]:
    """Find keys by the prefixes that their providers give them, or by a word where they have none.

    A stand-in such as ``ghp_xxxxxxxx`` is no key.
    """
    if text.longest_word < MIN_KEY_CHARACTERS:
        return
    for prefix, pattern in _PATTERNS:
        if prefix not in text.folded:
            continue
        for found in pattern.finditer(text.folded):
            if len(set(found.group()[len(prefix) :])) >= MIN_DISTINCT:
                yield Match("APIKey", *found.span(), found.group())
    lowered = text.folded.lower()
    if "aws" in lowered or "secret" in lowered:
        yield from _find_named(text, _AWS_SECRET, _AWS_WORDS)
    if "twilio" in lowered or "auth" in lowered:
        yield from _find_named(text, _HEX_SECRET, _TWILIO_WORDS)


def _find_named(text: Text, pattern: re.Pattern[str], names: re.Pattern[str]) -> Iterator[Match]:
    for found in pattern.finditer(text.folded):
        before = text.folded[max(0, found.start() - 40) : found.start()]
        mixed = sum(bool(re.search(kind, found.group())) for kind in ("[A-Z]", "[a-z]", r"\d"))
        needed = 3 if pattern is _AWS_SECRET else 2
        if mixed >= needed and names.search(before):
            yield Match("APIKey", *found.span(), found.group())


def find_tokens(text: Text) -> Iterator[Match]:
    """Find JSON Web Tokens: header and claims in Base64, which begin with a brace."""
    if "eyJ" in text.folded:
        for found in _JWT.finditer(text.folded):
            yield Match("JWT", *found.span(), found.group())


def find_private_keys(text: Text) -> Iterator[Match]:
    """Find private keys in PEM, also with line breaks written as two characters or cut short."""
    place = 0
    closed = True
    while found := _PEM.search(text.folded, place):
        end = _PEM_END.search(text.folded, found.end()) if closed else None
        closed = end is not None  # else no later one ends either
        if end is None:
            body = _PEM_BODY.match(text.folded, found.end())
            stop = body.end() if body else found.end()
        else:
            stop = end.end()
        yield Match("PrivateKey", found.start(), stop, text.folded[found.start() : stop])
        place = stop
