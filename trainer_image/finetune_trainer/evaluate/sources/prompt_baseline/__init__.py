"""The base model asked as well as a person would: the prompt, and what it is made of."""
