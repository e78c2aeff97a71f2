"""Rows with planted personal data and secrets in eleven countries' prose, and clean rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from kit.planted import privacy_values as values

NAMES = {
    "US": ("Emily", "Carter", "Logan", "Brooks"),
    "GB": ("Oliver", "Hughes", "Imogen", "Clarke"),
    "DE": ("Jürgen", "Müller", "Sabine", "Weiß"),
    "FR": ("Chloé", "Lefèvre", "Théo", "Garnier"),
    "ES": ("Lucía", "Ibáñez", "Álvaro", "Núñez"),
    "IT": ("Giulia", "Ferraro", "Niccolò", "Sartori"),
    "NL": ("Daan", "Visser", "Sanne", "Bakker"),
    "PL": ("Zofia", "Wójcik", "Paweł", "Łuczak"),
    "BR": ("João", "Araújo", "Letícia", "Gonçalves"),
    "IN": ("Ananya", "Iyer", "Rohan", "Kulkarni"),
    "SE": ("Åsa", "Lindström", "Björn", "Sjögren"),
}
FILLERS = {
    "US": (
        "The parcel never arrived.",
        "I would like a refund, please.",
        "It worked until Monday.",
    ),
    "GB": ("The boiler makes a noise.", "Could somebody get back to us?", "Thanks ever so much."),
    "DE": (
        "Das Paket ist nicht angekommen.",
        "Bitte um baldige Antwort.",
        "Vielen Dank im Voraus.",
    ),
    "FR": ("Le colis n'est jamais arrivé.", "Merci de votre réponse.", "Tout marchait hier."),
    "ES": ("El pedido llegó roto.", "Espero su respuesta.", "Gracias por la ayuda."),
    "IT": ("Il pacco non è mai arrivato.", "Resto in attesa.", "Grazie mille per l'aiuto."),
    "NL": ("Het pakket is niet aangekomen.", "Graag een reactie.", "Alvast bedankt."),
    "PL": ("Paczka nie dotarła.", "Proszę o odpowiedź.", "Z góry dziękuję."),
    "BR": ("O pacote não chegou.", "Aguardo um retorno.", "Obrigado pela atenção."),
    "IN": ("The order has not come yet.", "कृपया जल्दी जवाब दें।", "Kindly do the needful."),
    "SE": ("Paketet har inte kommit.", "Vänligen återkom.", "Tack på förhand."),
}
ID_FRAMES = {
    "US": ("My SSN is {v}.", "Social security number: {v}", "{v} is on the form."),
    "GB": ("My NI number is {v}.", "National Insurance: {v}", "{v} is on my payslip."),
    "DE": ("Meine Steuer-ID lautet {v}.", "IdNr. {v}", "Steueridentifikationsnummer: {v}"),
    "FR": ("Numéro de sécurité sociale {v}.", "NIR : {v}", "Voici le numéro {v} de mon fils."),
    "ES": ("Mi DNI es {v}.", "NIF {v}", "Titular con documento {v}."),
    "IT": ("Codice fiscale: {v}", "Il mio CF è {v}.", "Intestato a {v}."),
    "NL": ("Mijn BSN is {v}.", "Burgerservicenummer: {v}", "BSN-nummer {v}, zie bijlage."),
    "PL": ("Mój PESEL to {v}.", "PESEL: {v}", "Numer PESEL {v} w załączniku."),
    "BR": ("Meu CPF é {v}.", "CPF: {v}", "CPF nº {v}, titular da conta."),
    "IN": ("My Aadhaar is {v}.", "Aadhaar number: {v}", "आधार {v}"),
    "SE": ("Mitt personnummer är {v}.", "Personnummer: {v}", "Personnr {v}, se bilagan."),
}
PHONE_FRAMES = {
    "US": ("Call me at {v}.", "Phone: {v}", "My cell is {v}, after six."),
    "GB": ("Ring me on {v}.", "Tel: {v}", "My mobile is {v}."),
    "DE": ("Rufen Sie mich an: Tel. {v}", "Meine Handynummer ist {v}.", "Telefon {v}"),
    "FR": ("Appelez-moi au {v}.", "Tél. : {v}", "Mon portable : {v}"),
    "ES": ("Mi teléfono es {v}.", "Tel. {v}", "Llámame al móvil {v}."),
    "IT": ("Il mio cellulare è {v}.", "Tel. {v}", "Telefono: {v}"),
    "NL": ("Bel mij op {v}.", "Telefoonnummer: {v}", "Mobiel {v}"),
    "PL": ("Proszę dzwonić: tel. {v}", "Telefon: {v}", "Mój numer telefonu to {v}."),
    "BR": ("Meu celular é {v}.", "Telefone: {v}", "WhatsApp {v}"),
    "IN": ("Call me on {v}.", "मोबाइल {v}", "Phone no. {v}"),
    "SE": ("Ring mig på {v}.", "Telefon: {v}", "Mobil {v}"),
}
FRAMES: dict[str, tuple[str, ...]] = {
    "Email": ("Write to {v}.", "<{v}>", "{v}", "E-Mail: {v}, thanks", '{{"mail": "{v}"}}'),
    "Phone, international": ("Reach me: {v}.", "{v}", "({v})", "| {v} |", "tel:{v}"),
    "Card": ("Charged to {v}.", "{v}", "Card: {v}, exp 09/29", "karta {v}"),
    "IBAN": ("Transfer to {v}.", "IBAN: {v}", "{v}", "Konto {v}, danke"),
    "IPAddress": ("Login from {v} failed.", "{v} - - GET /", "IP {v}", "[{v}]", "ssh root@{v}"),
    "JWT": ("Authorization: Bearer {v}", "token={v}", '"{v}"', "cookie: session={v};"),
    "PrivateKey": ("{v}", "key: |\n{v}\n", 'KEY = "{v}"'),
    "Password, URL": ("postgres://app:{v}@db.example:5432/x", "see https://bob:{v}@h.example/"),
    "Password, assigned": ('password = "{v}"', "DB_PASSWORD={v}", '"client_secret": "{v}",',
                           "api_key: {v}"),
}  # fmt: skip
KEY_FRAMES = ("export KEY={v}", "{v}", 'token: "{v}"', "here it is: {v}.", "print('a\\n{v}')")


@dataclass(frozen=True, kw_only=True)
class Planted:
    """A text with one value.

    Attributes:
        kind: What was planted, with its country or provider.
        entity: Its kind in the API.
        text: The text.
        start: Where the value begins.
        end: Where it ends, exclusive.
    """

    kind: str
    entity: str
    text: str
    start: int
    end: int


def plant(num_of_kind: int, *, seed: int) -> Iterator[Planted]:
    """Yield as many texts of each kind; kinds go round the countries."""
    random = Random(seed)
    for number in range(num_of_kind):
        country = values.LOCALES[number % len(values.LOCALES)]
        for entity, frames in FRAMES.items():
            yield _plant(
                random, country, entity, random.choice(frames), _value(random, country, entity)
            )
    for country in values.LOCALES:
        for _ in range(num_of_kind // 4 + 1):
            number_of = values.NATIONAL_IDS[country](random)
            frame = random.choice(ID_FRAMES[country])
            yield _plant(random, country, f"NationalID, {country}", frame, number_of)
            written = values.phone(random, country, international=False)
            frame = random.choice(PHONE_FRAMES[country])
            yield _plant(random, country, f"Phone, {country}", frame, written)
    for provider in values.API_KEYS:
        for _ in range(num_of_kind // 4 + 1):
            key, written = values.api_key(random, provider)
            frame = random.choice(KEY_FRAMES).replace("{v}", written.replace(key, "{v}"))
            yield _plant(random, "US", f"APIKey, {provider}", frame, key)


def _value(random: Random, country: str, entity: str) -> str:
    if entity == "Email":
        return values.email(random, NAMES[country])
    if entity == "Phone, international":
        return values.phone(random, country, international=True)
    make = {
        "Card": values.card,
        "IBAN": values.iban,
        "IPAddress": values.ip_address,
        "JWT": values.jwt,
        "PrivateKey": values.private_key,
    }
    return make.get(entity, values.password)(random)


def _plant(random: Random, country: str, kind: str, frame: str, value: str) -> Planted:
    fillers = list(FILLERS[country])
    random.shuffle(fillers)
    head, _, tail = frame.replace("{{", "{").replace("}}", "}").partition("{v}")
    before = f"{fillers[0]} {random.choice(NAMES[country])}: {head}"
    return Planted(
        kind=kind,
        entity=kind.partition(",")[0],
        text=f"{before}{value}{tail} {fillers[1]}",
        start=len(before),
        end=len(before) + len(value),
    )
