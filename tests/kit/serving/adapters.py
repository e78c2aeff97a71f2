"""Adapters that are computed instead of trained: each gives the answers that it is made for.

Only ``down_proj`` of the last layer is changed. All before it stays as in the base model, so what
the matrix must add to each state is a linear equation. Its rank is the number of different tokens
that the answers have. The weights of all other modules are there, and zero.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RIDGE = 1e-5
"""Share of the mean square that keeps weights small; answers stay the same in another rounding."""
PUSH = 8.0
"""Length of what is added to a state, in lengths of the state itself."""
_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_PLACE = "base_model.model.model.layers.{name}"


@dataclass(kw_only=True)
class AdapterMaker:
    """Makes adapters of one base model, and answers with them as Transformers does.

    Attributes:
        folder: Of the base model.
        rank: Rank of all adapters; the answers of one may have so many different tokens.
    """

    folder: Path
    rank: int
    _model: Any = field(default=None, init=False, repr=False)
    _tokenizer: Any = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.set_num_threads(1)
        self._tokenizer = AutoTokenizer.from_pretrained(self.folder)
        self._model = AutoModelForCausalLM.from_pretrained(self.folder).eval()

    def make(self, answers: Mapping[str, str]) -> dict[str, Any]:
        """Return the weights of an adapter that gives each question its answer.

        Raises:
            AssertionError: The answers have too many different tokens.
        """
        import torch

        rows = [
            (self._encode(question), self._tokens_of(answers[question])) for question in answers
        ]
        inputs, states, targets = self._states_of(rows)
        tokens = sorted(set(targets.tolist()))
        assert len(tokens) <= self.rank, f"{len(tokens)} different tokens, and rank {self.rank}"
        wanted = (targets[:, None] == torch.tensor(tokens)).double() - 1 / len(tokens)
        gram = inputs.T @ inputs
        gram += RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.double)
        read = torch.linalg.solve(gram, inputs.T @ wanted)
        lora_a = torch.zeros(self.rank, inputs.shape[1])
        lora_b = torch.zeros(states.shape[1], self.rank)
        lora_a[: len(tokens)] = read.T.float()
        directions = self._model.get_input_embeddings().weight.detach()[tokens]
        directions = directions / directions.norm(dim=1, keepdim=True)
        lora_b[:, : len(tokens)] = (PUSH * states.norm(dim=1).mean() * directions).T
        weights = {}
        for name, module in self._model.model.layers.named_modules():
            if name.endswith("_proj"):
                place = _PLACE.format(name=name)
                weights[f"{place}.lora_A.weight"] = torch.zeros(self.rank, module.in_features)
                weights[f"{place}.lora_B.weight"] = torch.zeros(module.out_features, self.rank)
        changed = self._changed
        return {**weights, f"{changed}.lora_A.weight": lora_a, f"{changed}.lora_B.weight": lora_b}

    def config(self) -> dict[str, Any]:
        """Return the content of ``adapter_config.json``."""
        return {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": str(self.folder),
            "inference_mode": True,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(_MODULES),
        }

    def write(self, weights: Mapping[str, Any], folder: Path) -> None:
        """Write an adapter's two files to a folder."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(weights), folder / "adapter_model.safetensors", metadata={"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(self.config(), indent=1))

    def ask(
        self, weights: Mapping[str, Any] | None, questions: Sequence[str], *, max_tokens: int
    ) -> list[str]:
        """Return greedy answers of the adapter, or of the base model for None, stripped."""
        import torch

        layer = self._model.model.layers[-1].mlp.down_proj
        kept = layer.weight.detach().clone()
        prompts = [self._encode(question) for question in questions]
        length = max(map(len, prompts))
        pad = self._tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (length - len(each)) + each for each in prompts])
        mask = torch.tensor([[0] * (length - len(each)) + [1] * len(each) for each in prompts])
        try:
            if weights is not None:
                lora_a, lora_b = (weights[f"{self._changed}.lora_{x}.weight"] for x in "AB")
                layer.weight.data += lora_b @ lora_a
            with torch.no_grad():
                made = self._model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    max_new_tokens=max_tokens,
                    do_sample=False,
                    pad_token_id=pad,
                )
        finally:
            layer.weight.data = kept
        texts = self._tokenizer.batch_decode(made[:, length:], skip_special_tokens=True)
        return [text.strip() for text in texts]

    @property
    def _changed(self) -> str:
        last = self._model.config.num_hidden_layers - 1
        return _PLACE.format(name=f"{last}.mlp.down_proj")

    def _encode(self, question: str) -> list[int]:
        messages = [{"role": "user", "content": question}]
        ids: list[int] = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        return ids

    def _tokens_of(self, answer: str) -> list[int]:
        return [*self._tokenizer(answer)["input_ids"], self._tokenizer.eos_token_id]

    def _states_of(self, rows: Sequence[tuple[list[int], list[int]]]) -> Any:
        """Return inputs of the last ``down_proj``, the states behind it, and the next tokens."""
        import torch

        seen: list[Any] = []
        layer = self._model.model.layers[-1]
        hooks = [
            layer.mlp.down_proj.register_forward_hook(lambda _, given, __: seen.append(given[0])),
            layer.register_forward_hook(lambda _, __, made: seen.append(made)),
        ]
        inputs, states, targets = [], [], []
        try:
            for prompt, answer in rows:
                seen.clear()
                with torch.no_grad():
                    self._model(input_ids=torch.tensor([[*prompt, *answer[:-1]]]))
                made = seen[1][0] if isinstance(seen[1], tuple) else seen[1]
                inputs.append(seen[0][0, -len(answer) :].double())
                states.append(made.reshape(-1, made.shape[-1])[-len(answer) :].double())
                targets += answer
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat(inputs), torch.cat(states), torch.tensor(targets)
