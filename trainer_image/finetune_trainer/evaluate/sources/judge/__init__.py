"""A language model judges answers of base and tuned model, asked over HTTP."""
