"""Personal data and secrets are found by form and checksum, and what only looks like it is not."""

from __future__ import annotations

import base64
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_trainer.prepare.privacy import phones
from finetune_trainer.prepare.privacy.finding import Settings, find_personal_data
from finetune_trainer.prepare.privacy.matches import Text
from finetune_trainer.prepare.privacy.national_ids import find_national_ids

ALL = Settings()
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV"
FULL_WIDTH = "4111 1111 1111 1111".translate({ord(d): ord(d) + 0xFEE0 for d in "14"})
DRAWN = "x7Kq2fLm9Rt4Vb8Nw3Zc6Hd5Jg1Ps0Ya"
SLACK = f"hooks.slack.com/services/T0{'A1B2C3'}/B0{'D4E5F6'}/{DRAWN[:24]}"
DISCORD = f"discord.com/api/v10/webhooks/{'123456789' * 2}/{DRAWN * 2}"
_UUID = "0a1b2c3d-0a1b-4c3d-8a1b-0a1b2c3d4e5f"
TEAMS = f"webhook.office.com/webhookb2/{_UUID}@{_UUID}/IncomingWebhook/{'0a1b2c3d' * 4}/{_UUID}"
AZURE = f"cAm8Q~{DRAWN[:32]}"
BASIC = base64.b64encode(b"Aladdin:open sesame").decode()
PEM = "-----BEGIN {0}PRIVATE KEY-----\nMIIEvQIBADANBgkq\n-----END {0}PRIVATE KEY-----"


def found(text: str, settings: Settings = ALL, before: str = "") -> list[tuple[str, str]]:
    matches = find_personal_data(text, settings, before=before)
    return [(match.entity, text[match.start : match.end]) for match in matches]


@pytest.mark.parametrize(
    ("text", "entity", "value"),
    [
        ("Write to jane.doe+x@mail.example.co.uk.", "Email", "jane.doe+x@mail.example.co.uk"),
        ("<mailto:jörg@bücher.example>", "Email", "jörg@bücher.example"),
        ("https://x.example?to=jane@y.example", "Email", "jane@y.example"),
        ("or +1 212 555 2368 2 weeks ago", "Phone", "+1 212 555 2368"),
        ("(+44) 20 7946 0958", "Phone", "(+44) 20 7946 0958"),
        ("0044 20 7946 0958", "Phone", "0044 20 7946 0958"),
        ("at 020 7946 0958", "Phone", "020 7946 0958"),
        ("(212) 555-2368", "Phone", "(212) 555-2368"),
        ("phone since 2024-01-12 020 7946 0958", "Phone", "020 7946 0958"),
        ("call me on 12.01.2024, 2125552368", "Phone", "2125552368"),
        ("Call me on 2125552368", "Phone", "2125552368"),
        ("फ़ोन: ९८११२३४५६७", "Phone", "९८११२३४५६७"),
        ("4111 1111 1111 1111", "Card", "4111 1111 1111 1111"),
        ("2223003122003222", "Card", "2223003122003222"),
        ("3782-822463-10005", "Card", "3782-822463-10005"),
        (FULL_WIDTH, "Card", FULL_WIDTH),
        ("Maestro card 6304000000000000", "Card", "6304000000000000"),
        ("DE89 3704 0044 0532 0130 00 by Friday", "IBAN", "DE89 3704 0044 0532 0130 00"),
        ("gb29nwbk60161331926819", "IBAN", "gb29nwbk60161331926819"),
        ("MT84MALT011000012345MTLCAST001S", "IBAN", "MT84MALT011000012345MTLCAST001S"),
        ("login from 203.0.113.77", "IPAddress", "203.0.113.77"),
        ("IP 5.9.1.2", "IPAddress", "5.9.1.2"),
        ("ssh root@91.198.174.192", "IPAddress", "91.198.174.192"),
        ("[2001:db8::8a2e:370:7334]", "IPAddress", "2001:db8::8a2e:370:7334"),
        ("AKIAIOSFODNN7EXAMPLE", "APIKey", "AKIAIOSFODNN7EXAMPLE"),
        ('print("a\\nghp_' + "aB3dE5gH7" * 4 + '")', "APIKey", "ghp_" + "aB3dE5gH7" * 4),
        (f"Bearer {JWT}", "JWT", JWT),
        (f"key: {PEM.format('RSA ')}!", "PrivateKey", PEM.format("RSA ")),
        (
            "-----BEGIN PRIVATE KEY-----\\nMIIEvQ==\\n-----END PRIVATE KEY-----\\n",
            "PrivateKey",
            "-----BEGIN PRIVATE KEY-----\\nMIIEvQ==\\n-----END PRIVATE KEY-----",
        ),
        ("-----BEGIN PRIVATE KEY-----\nM..", "PrivateKey", "-----BEGIN PRIVATE KEY-----\nM"),
        ("postgres://app:s3cr3t@db.example.com/x", "Password", "s3cr3t"),
        ("DB_PASSWORD='Tr0ub4dor&3x'", "Password", "Tr0ub4dor&3x"),
        ("user=app pass=Xk29!fjK2 host=db", "Password", "Xk29!fjK2"),
        ("AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "APIKey",
         "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ("DNI 12.345.678-Z", "NationalID", "12.345.678-Z"),
        ("api_key: 7f9K2mQ4xR8t", "Password", "7f9K2mQ4xR8t"),
        # Forms from public specifications and vendors' documentation.
        (f"POST https://{SLACK}", "APIKey", SLACK),
        (f'"https://{DISCORD}"', "APIKey", DISCORD),
        (f"https://x.{TEAMS}", "APIKey", TEAMS),
        (f"client_secret is {AZURE};", "APIKey", AZURE),
        (f"KEY=figd_{DRAWN}", "APIKey", f"figd_{DRAWN}"),
        (f"https://ghp_{'aB3dE5gH7' * 4}@github.com/x", "APIKey", "ghp_" + "aB3dE5gH7" * 4),
        (f"Authorization: Bearer {DRAWN}", "APIKey", DRAWN),
        ("authorization: bearer mF_9.B5f-4.1JqM", "APIKey", "mF_9.B5f-4.1JqM"),
        (f"'Authorization': 'token {'0a1b2c3d' * 5}'", "APIKey", "0a1b2c3d" * 5),
        (f"Basic: Authorization: Basic {BASIC}", "Password", BASIC),
        (f"DD_API_KEY={'0a1b2c3d' * 4}", "Password", "0a1b2c3d" * 4),
        ('url = "postgresql://app:x9Kq2fLm@db"', "Password", "x9Kq2fLm"),
        ('"https://h.example/x?password=zhH7c8eXhz9n"', "Password", "zhH7c8eXhz9n"),
        ('"jdbc:postgresql://h/t?user=u&password=k3y"', "Password", "k3y"),
        ("jdbc:sqlserver://h:1433;user=sa;password={p@ss};x=1", "Password", "p@ss"),
        ("jdbc:oracle:thin:scott/tiger@//h:1521/s", "Password", "tiger"),
        ("<password>E1Vy85jWFLuq</password>", "Password", "E1Vy85jWFLuq"),
        ("curl -u admin:TEBO4cSU84BQ https://x", "Password", "TEBO4cSU84BQ"),
        ("mysql -pZAWLdEJxY4V8 app", "Password", "ZAWLdEJxY4V8"),
        ("redis-cli -h db -a ZAWLdEJxY4V8Qw==", "Password", "ZAWLdEJxY4V8Qw=="),
        ("my password is ZAWLdEJxY4V8, thanks", "Password", "ZAWLdEJxY4V8"),
        ("- name: DB_PASSWORD\n  value: b8XK2mQ4xR8t", "Password", "b8XK2mQ4xR8t"),
        (f'{{"kty":"EC","d":"{DRAWN * 2}"}}', "PrivateKey", DRAWN * 2),
        ("4111.1111.1111.1111", "Card", "4111.1111.1111.1111"),
        ("my card 41111111  11111111", "Card", "41111111  11111111"),
        ("carte 4111_1111_1111_1111", "Card", "4111_1111_1111_1111"),
        ("DE89.3704.0044.0532.0130.00", "IBAN", "DE89.3704.0044.0532.0130.00"),
        ("DE89  3704  0044  0532  0130  00", "IBAN", "DE89  3704  0044  0532  0130  00"),
        ("peer 198.18.58.24 up", "IPAddress", "198.18.58.24"),
        ("::ffff:203.0.113.7 gone", "IPAddress", "::ffff:203.0.113.7"),
        ("64:ff9b::192.0.2.33", "IPAddress", "64:ff9b::192.0.2.33"),
        ("http://[2001:db8::1%25en1]:80/", "IPAddress", "2001:db8::1"),
        ("2001:db8:0:cd30::/60", "IPAddress", "2001:db8:0:cd30::"),
        ("Steuer-ID: 86_095_742_719", "NationalID", "86_095_742_719"),
        ("steuer_id=86095742719", "NationalID", "86095742719"),
        ("IdNr. 86.095.742.719", "NationalID", "86.095.742.719"),
        ("D.N.I. 12345678 Z", "NationalID", "12345678 Z"),
        ("cpf 111 444 777 35", "NationalID", "111 444 777 35"),
        ("nino QQ-12-34-56-C", "NationalID", "QQ-12-34-56-C"),
        ("codice fiscale RSS MRA 85T10 A562S", "NationalID", "RSS MRA 85T10 A562S"),
        ("PAN ABCPK1622L", "NationalID", "ABCPK1622L"),
        ("My phone number is 4829131.", "Phone", "4829131"),
        ("Tel.+493012345678", "Phone", "+493012345678"),
        ("id 99,+33612345678", "Phone", "+33612345678"),
        ("msisdn 33612370033", "Phone", "33612370033"),
        ("(11) 96127-5840", "Phone", "(11) 96127-5840"),
        ("mon num 0612319456", "Phone", "0612319456"),
        ("call us at 555-1234", "Phone", "555-1234"),
        ("6247118587753390653", "Card", "6247118587753390653"),
        ("6225 5522 7784 7650 2", "Card", "6225 5522 7784 7650 2"),
        ("UnionPay 62692815688456890", "Card", "62692815688456890"),
        ("我的银行卡号6212810630535046 6", "Card", "6212810630535046 6"),
        ("银联卡 81636823617467896", "Card", "81636823617467896"),
        ("tcp 0 0 198.51.100.20.22 ESTABLISHED", "IPAddress", "198.51.100.20"),
        ("v=spf1 ip6:2001:db8::7 -all", "IPAddress", "2001:db8::7"),
        (f"my bearer token is {DRAWN}.", "APIKey", DRAWN),
        (f"bearer {DRAWN[:16]} fails", "APIKey", DRAWN[:16]),
        (f"the API token is {'0a1b2c3d' * 5}", "APIKey", "0a1b2c3d" * 5),
        ("the password for my account is Sunshine1033*.", "Password", "Sunshine1033*"),
        ("My password is Summer2024, thanks", "Password", "Summer2024"),
        ("changed the password to winter87& today", "Password", "winter87&"),
        ("event notes, pass: Summer2024", "Password", "Summer2024"),
        ("the event password: Summer2024", "Password", "Summer2024"),
        ("Mein Passwort ist @winter413", "Password", "@winter413"),
        ("user anna, pw: DragonBlue70", "Password", "DragonBlue70"),
    ],
)  # fmt: skip
def test_a_value_is_found_whole(text: str, entity: str, value: str) -> None:
    assert found(text) == [(entity, value)]


@pytest.mark.parametrize(
    "text",
    [
        "icon@2x.png",
        "git clone git@github.com:org/repo.git",
        "ssh://git@host.example/repo",
        "@app.route('/users')",
        "version 1.2.3.4, requests==2.31.0.1, v4.10.2.1, Chrome/103.0.50.60, see 3.1.4.1",
        "127.0.0.1 192.168.0.10 10.1.2.3 0.0.0.0 255.255.255.0 8.8.8.8",
        "std::vector dead::beef 00:1B:44:11:3A:B7 12:30:45",
        "ISBN 978-3-16-148410-0, 0-306-40615-2 and 0306406152",
        "4111 1111 1111 1112",
        "order 2026112500042117, invoice 20261125-0042",
        "2026-11-25 10:00:00, 25.11.2026, 01/02/2026 and 1764061200000",
        "my phone broke. ts: 2024-01-12 00:00:00",
        "call me at 12/31/2024 17:30:00 or 2024/1/2 08:15",
        "123e4567-e89b-12d3-a456-426614174000 12345678-1234-4123-8123-123456789012",
        "52.520008, 13.404954; 3.141592653589793",
        "DE89370400440532013001",
        "ghp_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx sk-your-key-here sk-learn",
        "https://user:${PASSWORD}@host.example https://user:password@host.example",
        "password: must have at least 8 characters",
        "token = tokenizer.encode(text)[0]; api_key=os.environ['API_KEY_2']",
        "secretName: db-credentials-v2",
        "the sum of 123456782 and 111222333",
        "total 1 234 567 890",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "<EMAIL_1> and <PHONE_2> about 0123456789",
        "on my phone 4829131 stands, and my phone shows error 35532103",
        "the hotline took 3497264 calls, called 3 times, 1200 calls",
        "mobile app version 98275213; IMEI 352591108791196 of my phone",
        "bins of 371-782-1382, 325-419-1126 and 120-340-1000",
        "parcel 0432 5197 4771 is late, phone order 399184321 too",
        "file ref 863-207-8301, resistors of 862-207-2301 ohms, Paketnummer 0789 2824 2656 75",
        "8130 9514 0733 and 0430 9514 0733",
        "02/04/04 02/05/04 02/06/04; +44.1234-123.1234/",
        "ff02::1 fe80::1 a[1::2] 4000::1",
        "Authorization: Bearer YOUR_ACCESS_TOKEN, Bearer <token>, Bearer $TOKEN_1",
        "Basic authentication for 58 users, the bearer of good news came 66 times",
        "https://hooks.slack.com/services/T00000000/B00000000/XXXXXXXXXXXXXXXXXXXXXXXX",
        "jdbc:postgresql://h/t?user=u&password=${DB_PASSWORD_8}",
        "docker run -p 8080:1311 -u root:root img; scp -p user@host:/x/6.tar .",
        "foreign_key = 'Order2Item3'; name: db-secret-9\n  key: password",
        f"sha512-{'aB3dE5gH7' * 9}==",
        "our phone sales 1990-2000, hotline staff 505000-697000, pages 26-47 76-84 by mobile use",
        "parcel 0047 4784 9330, call center 14-61 79-91",
        "Tracking number 3681719282722367, parcel 6000 7927 4749 3053, FedEx 5799 5513 9661 2240",
        "OID 23.21.40.100.7.9.1 and 1.3.6.1.4.1.9",
        "the password is 12-character long, and was SHA256-hashed to pass to httpx2.request",
        "the token LlamaForCausalLM2 and the password for server2019 are missing",
        "username, password = index_url_user_password",
        "Your boarding pass: LH4567AB, the season pass: Winter2025",
        "The password is SHA-256-hashed",
        "java -XX:+UseG1GC -XX:MaxRAMPercentage=75.0 -XX:MetaspaceSize=256m; at -AfternoonTea2Pm3",
        "gradle build -PappVersion=2.4.1; ./gradlew -PreleaseVersion=1.2.3-RC1 -pversion=1.2.3-RC1",
        "curl -A Mozilla5.0-Chrome120 https://example.com; kubectl get pods -w Pod12Abc34",
        "redis-cli ping && curl -A Mozilla5.0-Chrome120 x; ldapsearch; kubectl get -w Pod12Abc34",
        "mvn test -papp-Version=2.4.1-RC1",
        'auth(token, "SHA256withRSA"); connect("Button1", "onClick2Handler")',
        'connect("mongodb", "UTF-8", "ISO-8859-1"); ftp("ftp.example.com", "README_v2.TXT")',
        "net user guide v2.3.1-Beta4; kubectl logs -p my-pod-7f8d9c-xk2lp; ssh -p 2222 host-Prod01",
        "    pass\n\n\n@QtCore.pyqtSlot()",
        "    pass\n\n@QtCore.pyqtSlot\n",
    ],
)
def test_what_only_looks_like_it_is_left(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize(
    ("country", "text"),
    [
        ("AT", "SVNR 1237 010180"),
        ("AU", "TFN 123 456 782"),
        ("BE", "85.07.30-033.28"),
        ("BR", "111.444.777-35"),
        ("CA", "SIN 046 454 286"),
        ("CH", "756.9217.0769.85"),
        ("CN", "11010519491231002X"),
        ("DE", "Steuer-ID 86 095 742 719"),
        ("DK", "CPR 070761-4285"),
        ("ES", "12345678Z"),
        ("ES", "X1234567L"),
        ("FI", "131052-308T"),
        ("FR", "2 55 08 14 168 025 38"),
        ("GB", "AB 12 34 56 C"),
        ("GB", "NHS number 943 476 5919"),
        ("IE", "PPS number 1234567T"),
        ("IN", "Aadhaar 2341 2341 2346"),
        ("IT", "RSSMRA85T10A562S"),
        ("JP", "My Number 1234 5678 9018"),
        ("KR", "971013-9019902"),
        ("MX", "HEGG560427MVZRRL04"),
        ("NL", "BSN 111222333"),
        ("NO", "15108695088"),
        ("PL", "PESEL 44051401359"),
        ("PT", "NIF 123456789"),
        ("SE", "personnummer 811228-9874"),
        ("TR", "TC kimlik no 10000000146"),
        ("US", "078-05-1120"),
        ("ZA", "ID number 8001015009087"),
    ],
)
def test_published_sample_numbers_hold_and_no_longer_do_with_another_digit(
    country: str, text: str
) -> None:
    (match,) = find_national_ids(Text(text), [country])
    assert text[match.start : match.end] == text[-(match.end - match.start) :]
    others = [code for code in ("FI", "NL", "US") if code != country]
    assert country in ("NL", "PT", "AU", "CA") or not list(find_national_ids(Text(text), others))
    if country not in ("DK", "GB", "US"):  # these have no check digit
        last = text[-1]
        changed = chr(ord(last) + 1) if last not in "9Z" else chr(ord(last) - 1)
        assert not list(find_national_ids(Text(text[:-1] + changed), [country]))


@pytest.mark.parametrize(
    "text",
    [
        'mysqli_connect("localhost", "root", "{}", "shop")',
        "$pdo = new PDO('mysql:host=db;dbname=shop', 'app', '{}');",
        'requests.get(url, auth=("ann", "{}"))',
        "user.set_password('{}')",
        "cy.get('#password').type('{}')",
        "CREATE USER 'a' IDENTIFIED BY '{}';",
        "requirepass {}",
        "redis-cli -h h -a {} ping",
        "keytool -list -storepass {} -keystore x.jks",
        "echo '{}' | sudo -S apt update",
        '<add key="DbPassword" value="{}"/>',
        '#define WIFI_PASSWORD "{}"',
        "sqlplus scott/{}@orcl",
        "net user ann {} /add",
        "hasło: {}",
    ],
)
def test_passwords_of_calls_directives_and_options_are_found(text: str) -> None:
    value = "aK7x" + "Qp2mZ9"
    (match,) = find_personal_data(text.format(value), Settings())
    assert (match.entity, match.value) == ("Password", value)


def test_a_word_said_just_before_tells_what_a_number_is() -> None:
    assert found("It is 111222333.") == []
    assert found("It is 111222333.", before="What is your BSN?") == [("NationalID", "111222333")]


def test_what_is_looked_for_can_be_chosen() -> None:
    text = "jane@x.example, 0171 2345678, 020 7946 0958"
    assert found(text, Settings(entities=frozenset({"Email"}))) == [("Email", "jane@x.example")]
    german = Settings(countries=("DE",))
    assert ("Phone", "0171 2345678") in found(text, german)
    assert ("Phone", "020 7946 0958") not in found(text, german)


@pytest.mark.parametrize(
    ("allowed", "text", "is_left"),
    [
        ("support@our.example", "Support@our.example", True),
        ("support@our.example", "other@our.example", False),
        ("*@our.example", "other@our.example", True),
        ("*@our.example", "other@our.example.org", False),
        ("+49 30 901820", "+49 (30) 90-18-20", True),
        ("ghp_" + "aB3dE5gH7" * 4, "ghp_" + "aB3dE5gH7" * 4, True),
        ("GHP_" + "aB3dE5gH7" * 4, "ghp_" + "aB3dE5gH7" * 4, False),
    ],
)
def test_allowed_values_are_left(allowed: str, text: str, is_left: bool) -> None:
    assert (found(text, Settings(allow=(allowed,))) == []) is is_left


@pytest.mark.slow
@given(st.text(st.characters(exclude_categories=())))
@settings(max_examples=300)
def test_any_text_can_be_searched(text: str) -> None:
    end = 0
    for match in find_personal_data(text, ALL):
        assert end <= match.start < match.end <= len(text)
        end = match.end


LONG = 400_000
HARD = [
    "a", "1", "1 ", "1-", "a@", "a@a.", "a@a.aa ", "+", "(1)", "1.", ":", "a:", "::1 ", "eyJ",
    "eyJaaaaaaaa.", "-----BEGIN PRIVATE KEY-----", "-----BEGIN ", "http://a:", "http://",
    "password=", "password:'", "DE00 ", "DE00", "ghp_", "ghp_a", "sk-", "SG.", "xoxb-1", "token",
    "token ", "<EMAIL_1>", "<", "A1", "4111111111111111 ", "0171 2345678 ", "call 1234567 ", "-_",
    "0123456789abcdef", "=", "\\n", "\u0660", "\uff11 ",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("piece", HARD)
def test_time_grows_with_the_length_alone(piece: str) -> None:
    def measure(length: int) -> float:
        text = piece * (length // len(piece))
        start = time.process_time()
        find_personal_data(text, ALL)
        return time.process_time() - start

    # A text of four times the length takes nothing like sixteen times as long. What grows with the
    # square does so each time; a busy machine does not.
    times = []
    for _ in range(3):
        short, long = measure(LONG // 40), measure(LONG // 10)
        times.append((short, long))
        if long < 8 * max(short, 0.02):
            break
    else:
        raise AssertionError(times)


def test_digits_that_no_country_groups_so_are_not_asked_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(phones, "_parse", lambda written, *_, **__: asked.append(written))
    text = "0 0 0 1 2 3 4 5 6 " * 50 + "00 00 00 00 00 1234567 001 " * 2
    find_personal_data(text, ALL)
    assert all(written.startswith("+") for written in asked)
    find_personal_data("030 1234 5678", ALL)
    assert "030 1234 5678" in asked
