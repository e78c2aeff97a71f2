"""Model families: tokenizers, templates, tiny models, and the labels they give."""
