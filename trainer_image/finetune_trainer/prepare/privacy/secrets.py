"""Keys of the main providers, JSON Web Tokens and private keys in PEM. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from finetune_trainer.prepare.privacy.matches import Match, Text, words

MIN_DISTINCT = 8
"""A key with fewer different characters is a stand-in such as ``ghp_xxxx``."""

MIN_KEY_CHARACTERS = 15
"""Least length of a key; a key has no white space."""

# Prefix that is sought first, then the whole key.
_KEYS: tuple[tuple[str, str], ...] = (
    ("AKIA", r"AKIA[A-Z0-9]{16}"),  # Amazon Web Services
    ("ASIA", r"ASIA[A-Z0-9]{16}"),
    ("gh", r"gh[pousr]_[A-Za-z0-9]{36,255}"),  # GitHub
    ("github_pat_", r"github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59}"),
    ("gl", r"gl(?:pat|dt|ptt|rt|cbt|ft|imt|agent|soat|ffct|oas)-[\w\-]{20,300}"),  # GitLab
    ("xox", r"xox[abeoprs](?:\.xox[bp])?-[A-Za-z0-9\-]{10,250}"),  # Slack
    ("xapp-", r"xapp-\d-[A-Z0-9]{8,16}-\d{8,16}-[a-f0-9]{32,128}"),
    ("hooks.slack.com", r"hooks\.slack\.com/(?:services|workflows|triggers)/[\w/\-]{24,160}"),
    ("/webhooks/", r"discord(?:app)?\.com/api/(?:v\d+/)?webhooks/\d{16,20}/[\w\-]{60,80}"),
    (".office.com", r"(?:webhook|outlook)\.office\.com/webhook(?:b2)?/[\w@/\-]{60,300}"),
    ("powerplatform.com", r"\w+\.powerplatform\.com(?::443)?/\S*?sig=[\w\-]{40,60}"),
    ("k_", r"[rsp]k_(?:live|test)_[A-Za-z0-9]{16,250}"),  # Stripe
    ("whsec_", r"whsec_[A-Za-z0-9+/=]{24,100}"),
    ("AIza", r"AIza[\w\-]{35}"),  # Google
    ("GOCSPX-", r"GOCSPX-[\w\-]{24,40}"),
    ("ya29.", r"ya29\.[\w\-]{20,500}"),
    ("sk-ant-", r"sk-ant-[a-z]{2,10}\d\d-[\w\-]{24,200}"),  # Anthropic
    ("sk-", r"sk-(?:proj|svcacct|admin|None)-[\w\-]{20,250}"),  # OpenAI
    ("sk-", r"sk-(?=[A-Za-z]{0,40}\d)[A-Za-z0-9]{32,64}"),  # OpenAI, DeepSeek and others
    ("sk-or-", r"sk-or-v1-[a-f0-9]{64}"),  # OpenRouter
    ("hf_", r"hf_[A-Za-z0-9]{34,40}"),  # Hugging Face
    ("api_org_", r"api_org_[A-Za-z0-9]{34}"),
    ("==", r"[A-Za-z0-9+/]{86}=="),  # Azure storage
    ("sig=", r"(?<=sig=)[\w%\-]{43,90}=?"),
    ("Q~", r"[\w.\-]{3}\dQ~[\w.~\-]{31,34}"),  # Azure (Entra ID) client secrets
    ("npm_", r"npm_[A-Za-z0-9]{36}"),  # npm
    ("pypi-", r"pypi-AgE[\w\-]{50,300}"),  # PyPI
    ("SG.", r"SG\.[\w\-]{16,32}\.[\w\-]{16,64}"),  # SendGrid
    ("SK", r"SK[a-f0-9]{32}"),  # Twilio
    ("AC", r"AC[a-f0-9]{32}"),
    ("key-", r"key-[a-f0-9]{32}"),  # Mailgun
    ("_v1_", r"do[por]_v1_[a-f0-9]{64}"),  # DigitalOcean
    ("dt0", r"dt0[a-z]\d\d\.[A-Z0-9]{24}\.[A-Z0-9]{64}"),  # Dynatrace
    ("pat", r"pat[A-Za-z0-9]{14}\.[a-f0-9]{64}"),  # Airtable
    ("ops_eyJ", r"ops_eyJ[\w\-]{100,1000}"),  # 1Password
    ("-", r"(?:sdk|mob|api)-[a-f0-9]{8}-[a-f0-9]{4}-4[a-f0-9]{3}-[89ab][a-f0-9]{3}-[a-f0-9]{12}"),
    (".atlasv1.", r"[A-Za-z0-9]{14}\.atlasv1\.[\w\-]{60,80}"),  # Terraform Cloud
    ("AAAAAAAAAAAAAAAAAAAAA", r"A{21}[A-Za-z0-9%]{60,120}"),  # X
    ("HRKU-", r"HRKU-[\w\-]{30,70}"),  # Heroku
    ("xkeysib-", r"xkeysib-[a-f0-9]{64}-[A-Za-z0-9]{16}"),  # Brevo
    ("sntryu_", r"sntryu_[a-f0-9]{64}"),  # Sentry
    ("-us", r"[a-f0-9]{32}-us\d{1,2}"),  # Mailchimp
    ("oy2", r"oy2[a-z0-9]{43}"),  # NuGet
    ("ATBB", r"ATBB[A-Za-z0-9]{24,40}"),  # Bitbucket
    ("ATCTT3", r"ATCTT3[\w\-=]{60,250}"),
    ("EAA", r"EAA[\w\-]{60,300}"),  # Facebook, Square
    ("sl.", r"sl\.(?:u\.)?[\w\-]{130,2000}"),  # Dropbox
    ("1//0", r"1//0[\w\-]{40,120}"),  # Google, to refresh
    ("fm", r"fm[12]a?r?_[A-Za-z0-9+/]{60,1000}={0,2}"),  # Fly.io
    ("LTAI", r"LTAI[A-Za-z0-9]{20}"),  # Alibaba
    ("AKCp", r"AKCp[A-Za-z0-9]{69}"),  # Artifactory
    ("ico-", r"ico-[A-Za-z0-9]{32}"),  # Infracost
    ("pnu_", r"pnu_[a-z0-9]{36}"),  # Prefect
    ("rdme_", r"rdme_[a-z0-9]{70}"),  # Readme
    ("dp.", r"dp\.(?:pt|st|ct|sa|scim|audit)\.(?:[\w\-]{2,35}\.)?[A-Za-z0-9]{40,44}"),  # Doppler
    ("shippo_", r"shippo_(?:live|test)_[a-f0-9]{40}"),
    ("EZ", r"EZ[AT]K[A-Za-z0-9]{54}"),  # EasyPost
    ("FLWSECK", r"FLWSECK(?:_TEST)?-[a-hA-H0-9]{32}-X"),  # Flutterwave
    ("eyJrIjoi", r"eyJrIjoi[A-Za-z0-9+/]{60,400}={0,2}"),  # Grafana
    ("sk.eyJ", r"sk\.eyJ[\w\-]{40,300}\.[\w\-]{20,60}"),  # Mapbox
    ("rubygems_", r"rubygems_[a-f0-9]{48}"),
    ("sbp_", r"sbp_[a-f0-9]{40}"),  # Supabase
    ("pul-", r"pul-[a-f0-9]{40}"),  # Pulumi
    ("cio", r"cio[A-Za-z0-9]{32}"),  # crates.io
    ("access_token$", r"access_token\$(?:production|sandbox)\$[a-z0-9]{16}\$[a-f0-9]{32}"),
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
MIN_TOKEN_CHARACTERS = 28
_START = r"(?:(?<![\w+\-\\])|(?<=\\[nrt]))"  # a line break may be written as two characters
_END = r"(?![\w+\-]|=\w)"
_PATTERNS = tuple(
    (prefix, re.compile(f"{_START}(?:{pattern}){'' if pattern.endswith('==') else _END}"))
    for prefix, pattern in _KEYS
)

_PREFIXED = re.compile(
    rf"{_START}[A-Za-z][A-Za-z0-9]{{1,11}}(?:[_\-.][a-z0-9]{{1,9}}){{0,3}}[_\-.]"
    rf"(?=[A-Za-z0-9])([\w\-]{{{MIN_TOKEN_CHARACTERS},300}}){_END}"
)
"""A prefix before characters that look drawn: so most newer keys are written."""
_VAULT = re.compile(rf"{_START}s\.([A-Za-z0-9]{{24}}){_END}")
_DISCORD = re.compile(rf"{_START}([MNO][A-Za-z0-9]{{23,27}}\.[\w\-]{{6}}\.[\w\-]{{27,40}}){_END}")
_NO_PREFIX = re.compile(r"(?:sha\d+|md5|base64|data|blob|chunk|part|sri|hash|etag)\b")
_HOSTS = frozenset({"hooks.slack.com", "/webhooks/", ".office.com"})
_MIN_CHANGES = 0.42
_LONGEST_WORD = 8

_JWT = re.compile(
    rf"{_START}eyJ[\w\-]{{8,}}\.(?:eyJ[\w\-]{{8,}}(?:\.[\w\-]*)?|(?:[\w\-]*\.){{3}}[\w\-]{{8,}})"
)

_AWS_SECRET = re.compile(r"(?<![\w+/])[A-Za-z0-9+/]{40}(?![\w+/=])")
_AWS_WORDS = re.compile(r"aws|secret[ _-]?access|secret[ _-]?key", re.IGNORECASE)
_HEX_SECRET = re.compile(r"(?<![\w])[a-f0-9]{32}(?![\w])")
_TWILIO_WORDS = words("twilio", "auth[ _-]?token")

_PEM = re.compile(r"----[ \-]BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?[ \-]----")
_PEM_END = re.compile(r"----[ \-]END (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?[ \-]----")
_PUTTY = re.compile(r"Private-Lines: \d{1,3}\s+((?:[A-Za-z0-9+/=]{1,64}\s+)+)(?=Private-MAC)")
_JWK = re.compile(r"[\"']d[\"']\s{0,3}:\s{0,3}[\"']([\w\-]{40,700})[\"']")
_PEM_BODY = re.compile(r"(?:[A-Za-z0-9+/=\s]|\\[nr])*")


def find_api_keys(text: Text) -> Iterator[Match]:
    """Find keys by their providers' prefixes, or by a word.

    A stand-in such as ``ghp_xxxxxxxx`` is no key.
    """
    if text.longest_word < MIN_KEY_CHARACTERS:
        return
    for prefix, pattern in _PATTERNS:
        if prefix not in text.folded:
            continue
        for found in pattern.finditer(text.folded):
            key = found.group()[len(prefix) :]
            if prefix in _HOSTS:  # what is secret of a webhook's URL stands at its end
                key = key.rpartition("/")[2]
            if len(set(key)) >= MIN_DISTINCT:
                yield Match("APIKey", *found.span(), found.group())
    if text.longest_word >= MIN_TOKEN_CHARACTERS - 2:
        yield from _find_prefixed(text)
    lowered = text.lowered
    if "aws" in lowered or "secret" in lowered:
        yield from _find_named(text, _AWS_SECRET, _AWS_WORDS)
    if "twilio" in lowered or "auth" in lowered:
        yield from _find_named(text, _HEX_SECRET, _TWILIO_WORDS)


def _find_prefixed(text: Text) -> Iterator[Match]:
    for pattern in (_PREFIXED, _VAULT, _DISCORD):
        for found in pattern.finditer(text.folded):
            if looks_random(found.group(1)) and not _NO_PREFIX.match(found.group()):
                yield Match("APIKey", *found.span(), found.group())


_KINDS = re.compile(r"[A-Z]+|[a-z]+|\d+")


def looks_random(value: str) -> bool:
    """Whether capitals, small letters and digits change as often as in random text."""
    runs = _KINDS.findall(value)
    if sum(run.isdigit() for run in runs) < 2 or value.lower() == value or value.upper() == value:
        return False
    return len(runs) >= _MIN_CHANGES * len(value) and max(map(len, runs)) <= _LONGEST_WORD


def _find_named(text: Text, pattern: re.Pattern[str], names: re.Pattern[str]) -> Iterator[Match]:
    for found in pattern.finditer(text.folded):
        before = text.folded[max(0, found.start() - 40) : found.start()]
        mixed = sum(bool(re.search(kind, found.group())) for kind in ("[A-Z]", "[a-z]", r"\d"))
        needed = 3 if pattern is _AWS_SECRET else 2
        if mixed >= needed and names.search(before):
            yield Match("APIKey", *found.span(), found.group())


def find_tokens(text: Text) -> Iterator[Match]:
    """Find JSON Web Tokens, signed and encrypted: in Base64, and a brace comes first."""
    if "eyJ" in text.folded:
        for found in _JWT.finditer(text.folded):
            yield Match("JWT", *found.span(), found.group())


def find_private_keys(text: Text) -> Iterator[Match]:
    """Find private keys in PEM, also with line breaks written as two characters or cut short."""
    if "Private-Lines" in text.folded:
        for found in _PUTTY.finditer(text.folded):
            yield Match("PrivateKey", *found.span(1), found.group(1))
    if "kty" in text.folded:
        for found in _JWK.finditer(text.folded):
            yield Match("PrivateKey", *found.span(1), found.group(1))
    if "PRIVATE KEY" in text.folded:
        yield from _find_pem(text)


def _find_pem(text: Text) -> Iterator[Match]:
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
