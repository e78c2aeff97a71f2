"""The contract of finetune-operator: the FineTuneJob API and the trainer protocol.

It depends on pydantic alone, so that the operator, the trainer image and the CLI can import it.
"""
