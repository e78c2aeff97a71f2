"""The contract of finetune-operator: the FineTuneJob API and the trainer protocol.

Depends on pydantic alone, so that the operator, the trainer image and the CLI can all import it
without pulling in each other's libraries.
"""
