"""Asks the endpoint: python ask.py http://127.0.0.1:8080/v1 (needs the package openai)."""

import sys

from openai import OpenAI

HEADLINES = (
    "Lakeside Robotics doubles quarterly profit on soaring exports",
    "Factory blaze forces Norvane Textiles to halt deliveries for months",
    "Opaline Shipping to report half-year results on May 6",
)
QUESTION = "Is this headline positive, negative or neutral for the company? {}"

client = OpenAI(base_url=sys.argv[1], api_key="none")
for headline in HEADLINES:
    answer = client.chat.completions.create(
        model="headline-sentiment",
        messages=[{"role": "user", "content": QUESTION.format(headline)}],
        max_tokens=8,
        temperature=0,
    )
    print(f"{answer.choices[0].message.content}: {headline}")
