"""Another engine for the answers: a vLLM server beside the stage, asked over HTTP."""
