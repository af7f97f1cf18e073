"""The families: a tiny random model of each, three layers, hidden 32, 128 tokens, whose every parameter is random.

Sizes are chosen so that no two parts of a block have the same shape by accident: 4 heads of 8 (or of 12 where the
family lets the head's size be free), 2 key/value heads where it has fewer of them, an MLP of 48.
"""

import torch
import transformers as hf

import gpt2

POSITIONS = 64
BASE = {
    "vocab_size": 128,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": None,
    "use_cache": False,
}
ROTARY = BASE | {"num_key_value_heads": 2, "intermediate_size": 48, "rope_theta": 100.0}
GPT = {
    "vocab_size": 128,
    "n_positions": POSITIONS,
    "n_embd": 32,
    "n_layer": 3,
    "n_head": 4,
    "n_inner": 48,
    "attn_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "resid_pdrop": 0.0,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "use_cache": False,
}
TIED, OPEN = {"tie_word_embeddings": True}, {"tie_word_embeddings": False}
NO_DROPOUT = {"attention_dropout": 0.0, "hidden_dropout": 0.0}

# family: (its class in transformers, without the ending; its configuration)
FAMILIES = {
    "llama": ("Llama", ROTARY | OPEN),
    "gptneox": (
        "GPTNeoX",
        BASE | NO_DROPOUT | OPEN | {"intermediate_size": 48, "rotary_pct": 0.5, "rotary_emb_base": 100, "use_parallel_residual": True},
    ),
    "gptneox-serial": (
        "GPTNeoX",
        BASE | NO_DROPOUT | OPEN | {"intermediate_size": 48, "rotary_pct": 1.0, "rotary_emb_base": 100, "use_parallel_residual": False},
    ),
    "qwen3": ("Qwen3", ROTARY | TIED | {"head_dim": 12}),
    "phi3": ("Phi3", ROTARY | OPEN | {"sliding_window": None}),
    "gemma3": (
        "Gemma3",
        ROTARY
        | TIED
        | {
            "head_dim": 10,
            "intermediate_size": 40,
            "query_pre_attn_scalar": 10,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_local_base_freq": 20.0,
        },
    ),
    "mistral": ("Mistral", ROTARY | OPEN | {"sliding_window": 4}),
    "qwen2": ("Qwen2", ROTARY | TIED),
    "gemma": ("Gemma", ROTARY | TIED | {"head_dim": 12, "num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2",
        ROTARY
        | TIED
        | {
            "head_dim": 12,
            "query_pre_attn_scalar": 10,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gptj": (
        "GPTJ",
        GPT | OPEN | {"rotary_dim": 4},
    ),
    "bloom": (
        "Bloom",
        {
            "vocab_size": 128,
            "hidden_size": 32,
            "n_layer": 3,
            "n_head": 4,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "use_cache": False,
        }
        | TIED,
    ),
    "opt": (
        "OPT",
        BASE | TIED | {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0, "attention_dropout": 0.0, "pad_token_id": 1},
    ),
    "falcon": (
        "Falcon",
        BASE
        | NO_DROPOUT
        | TIED
        | {
            "ffn_hidden_size": 48,
            "new_decoder_architecture": False,
            "multi_query": True,
            "parallel_attn": True,
            "bias": False,
            "alibi": False,
            "rope_theta": 100.0,
        },
    ),
    "phi": ("Phi", ROTARY | OPEN | {"num_key_value_heads": 4, "partial_rotary_factor": 0.5}),
    "stablelm": ("StableLm", ROTARY | OPEN | {"partial_rotary_factor": 0.5, "use_qkv_bias": True}),
    "olmo2": ("Olmo2", ROTARY | OPEN),
    "falcon-new": (
        "Falcon",
        BASE | NO_DROPOUT | OPEN | {"ffn_hidden_size": 48, "new_decoder_architecture": True, "num_kv_heads": 2, "bias": True, "rope_theta": 100.0},
    ),
    "starcoder2": ("Starcoder2", ROTARY | TIED | {"use_bias": True, "residual_dropout": 0.0, "embedding_dropout": 0.0, "sliding_window": None}),
    "nemotron": ("Nemotron", ROTARY | OPEN | {"head_dim": 8, "partial_rotary_factor": 0.5}),
    "smollm3": ("SmolLM3", ROTARY | TIED | {"no_rope_layers": [1, 0, 1]}),
    "bigcode": ("GPTBigCode", GPT | TIED | {"multi_query": True}),
    "codegen": ("CodeGen", GPT | OPEN | {"rotary_dim": 4}),
    "gptneo": (
        "GPTNeo",
        {
            "vocab_size": 128,
            "hidden_size": 32,
            "num_layers": 3,
            "num_heads": 4,
            "intermediate_size": 48,
            "max_position_embeddings": POSITIONS,
            "attention_types": [[["local", "global", "local"], 1]],
            "window_size": 4,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "use_cache": False,
        }
        | TIED,
    ),
    "mpt": (
        "Mpt",
        {
            "vocab_size": 128,
            "d_model": 32,
            "n_layers": 3,
            "n_heads": 4,
            "expansion_ratio": 2,
            "max_seq_len": POSITIONS,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "use_cache": False,
        }
        | TIED,
    ),
    "cohere": ("Cohere", ROTARY | TIED | {"logit_scale": 0.25, "use_qk_norm": False}),
    "granite": (
        "Granite",
        ROTARY
        | TIED
        | {
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.7,
            "attention_multiplier": 0.4,
        },
    ),
}
CONFIG = {"Gemma3": "Gemma3TextConfig"}


def tiny(family, attention="eager"):
    """The model of a family, in evaluation mode; the same name gives the same weights.

    Some families choose their attention class when they are built, so it has to be named here.
    """
    if family == "gpt2":
        return gpt2.tiny()
    stem, settings = FAMILIES[family]
    config = getattr(hf, CONFIG.get(stem, stem + "Config"))(**settings)
    config._attn_implementation = attention if getattr(getattr(hf, stem + "ForCausalLM"), "_supports_sdpa", False) else "eager"
    model = getattr(hf, stem + "ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(20240717)
    # These families' norms multiply by 1 + w, the others' by w.
    from_zero = stem in ("Gemma", "Gemma2", "Gemma3", "Nemotron")
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            random = torch.randn(value.shape, generator=generator)
            if value.dim() == 1:
                norm = name.endswith("weight")
                value.copy_((0.2 if norm else 0.15) * random + (1 if norm and not from_zero else 0))
            elif any(part in name for part in ("embed", "wte", "lm_head")):
                value.copy_(0.35 * random)
            else:
                value.copy_(1.3 * value.shape[1] ** -0.5 * random)
    return model
