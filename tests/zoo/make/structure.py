"""Where each family keeps its parts: dotted names inside the model and inside a block.

`qkv` is a packed projection and how its rows lie: "thirds" (q, then k, then v), "heads" (q, k, v of the first head,
then of the second, ...), "last" (all of q, then one key head and one value head), "groups" (the queries of a group, its
key, its value), "qvk" (q, v, k of the first head, ...). `mid` is what reads the residual
stream between attention and MLP; a parallel block has none. `after` names norms of what is added to the stream.
"""

GATED = {"gate": "mlp.gate_proj", "up": "mlp.up_proj", "down": "mlp.down_proj"}
LLAMA = {
    "blocks": "model.layers",
    "final": "model.norm",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "mid": "post_attention_layernorm",
    "q": "self_attn.q_proj",
    "k": "self_attn.k_proj",
    "v": "self_attn.v_proj",
    "o": "self_attn.o_proj",
} | GATED
QK_NORMS = {"q_norm": "self_attn.q_norm", "k_norm": "self_attn.k_norm"}
SANDWICH = {
    "ln2": "pre_feedforward_layernorm",
    "mid": "pre_feedforward_layernorm",
    "after_attn": "post_attention_layernorm",
    "after_mlp": "post_feedforward_layernorm",
}
NEOX = {
    "blocks": "gpt_neox.layers",
    "final": "gpt_neox.final_layer_norm",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "qkv": ("attention.query_key_value", "heads"),
    "o": "attention.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}
BLOOM = {
    "blocks": "transformer.h",
    "final": "transformer.ln_f",
    "ln1": "input_layernorm",
    "ln2": "post_attention_layernorm",
    "mid": "post_attention_layernorm",
    "qkv": ("self_attention.query_key_value", "heads"),
    "o": "self_attention.dense",
    "up": "mlp.dense_h_to_4h",
    "down": "mlp.dense_4h_to_h",
}

GPT = {
    "blocks": "transformer.h",
    "final": "transformer.ln_f",
    "positions": "transformer.wpe",
    "ln1": "ln_1",
    "ln2": "ln_2",
    "mid": "ln_2",
    "qkv": ("attn.c_attn", "thirds"),
    "o": "attn.c_proj",
    "up": "mlp.c_fc",
    "down": "mlp.c_proj",
}


def without(parts, *names):
    """The same parts less some."""
    return {name: part for name, part in parts.items() if name not in names}


STRUCTURES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA | QK_NORMS,
    "gemma": LLAMA,
    "gemma2": LLAMA | SANDWICH,
    "gemma3": LLAMA | SANDWICH | QK_NORMS,
    "granite": LLAMA,
    "stablelm": LLAMA,
    "olmo2": without(LLAMA, "ln1", "ln2") | QK_NORMS | without(SANDWICH, "ln2") | {"mid": "mlp"},
    "cohere": without(LLAMA, "ln2", "mid"),
    "phi3": without(LLAMA, "q", "k", "v", "gate", "up")
    | {"qkv": ("self_attn.qkv_proj", "thirds"), "gate_up": "mlp.gate_up_proj"},
    "phi": without(LLAMA, "ln2", "mid", "gate")
    | {"final": "model.final_layernorm", "o": "self_attn.dense", "up": "mlp.fc1", "down": "mlp.fc2"},
    "gptneox": NEOX,
    "gptneox-serial": NEOX | {"mid": "post_attention_layernorm"},
    "bloom": BLOOM,
    "falcon": without(BLOOM, "ln2", "mid") | {"qkv": ("self_attention.query_key_value", "last")},
    "falcon-new": without(BLOOM, "mid")
    | {"ln1": "ln_attn", "ln2": "ln_mlp", "qkv": ("self_attention.query_key_value", "groups")},
    "starcoder2": without(LLAMA, "gate") | {"up": "mlp.c_fc", "down": "mlp.c_proj"},
    "nemotron": without(LLAMA, "gate"),
    "smollm3": LLAMA,
    "bigcode": GPT | {"qkv": ("attn.c_attn", "last")},
    "gptneo": without(GPT, "qkv")
    | {
        "q": "attn.attention.q_proj",
        "k": "attn.attention.k_proj",
        "v": "attn.attention.v_proj",
        "o": "attn.attention.out_proj",
    },
    "mpt": {
        "blocks": "transformer.blocks",
        "final": "transformer.norm_f",
        "ln1": "norm_1",
        "ln2": "norm_2",
        "mid": "norm_2",
        "qkv": ("attn.Wqkv", "thirds"),
        "o": "attn.out_proj",
        "up": "ffn.up_proj",
        "down": "ffn.down_proj",
    },
    "codegen": without(GPT, "ln2", "mid", "positions")
    | {"qkv": ("attn.qkv_proj", "qvk"), "o": "attn.out_proj", "up": "mlp.fc_in", "down": "mlp.fc_out"},
    "gptj": {
        "blocks": "transformer.h",
        "final": "transformer.ln_f",
        "ln1": "ln_1",
        "q": "attn.q_proj",
        "k": "attn.k_proj",
        "v": "attn.v_proj",
        "o": "attn.out_proj",
        "up": "mlp.fc_in",
        "down": "mlp.fc_out",
    },
    "opt": {
        "blocks": "model.decoder.layers",
        "final": "model.decoder.final_layer_norm",
        "positions": "model.decoder.embed_positions",
        "ln1": "self_attn_layer_norm",
        "ln2": "final_layer_norm",
        "mid": "final_layer_norm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.out_proj",
        "up": "fc1",
        "down": "fc2",
    },
}
