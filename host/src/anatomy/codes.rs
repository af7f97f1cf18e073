//! The error codes of this folder.

use crate::base::codes;

codes! {
    Model SITE_ABSENT "site-absent" "The graph has no activation of that name, for the reason given: the block does \
        not exist, or the exporter fused the operators around it. `engraft inspect MODEL` lists what there is.";
    Model WEIGHT_ABSENT "weight-absent" "The graph has no weight of that name, for the reason given. \
        `engraft inspect MODEL` lists what there is.";
    Model NO_TRANSFORMER "anatomy-not-found" "The graph loads, but no decoder-only transformer is recognisable in \
        it. The message says what was found and what was missing. Encoders, encoder-decoders and merged graphs with \
        `If` are not read; export the plain decoder.";
    Model AMBIGUOUS "anatomy-ambiguous" "Two parts of the graph fit one part of a transformer equally well, and \
        engraft does not guess. The message names both.";
    Model OPERATOR_UNREAD "anatomy-operator-unread" "The graph has operators that engraft does not read: those of \
        other domains than the standard one, such as the fused ones that optimizers and quantizers write \
        (`GroupQueryAttention`, `SkipSimplifiedLayerNormalization`, `MatMulNBits` of `com.microsoft`), or `If`, which \
        merged decoders hold a graph inside of. What such an operator computes cannot be looked into. Export the model \
        as plain ONNX: with torch's own exporter, or with optimum without optimization, quantization and merging.";
    Model INPUT_UNREAD "anatomy-input-unread" "The graph has inputs whose meaning is not read, such as encoder states, \
        positions that are counted for all rows at once, or a switch between two graphs in one file. engraft feeds \
        token ids, and a padding mask, positions and cached keys and values where a graph asks for them. Export the \
        decoder so that it takes no others.";
    Model TRAINING "anatomy-training" "The graph draws random numbers: it was exported in training mode, where dropout \
        is at work, or an input switches that on. What it answers, and every activation, differs from run to run, so that \
        nothing can be measured or edited. Export the model for inference (with torch, after `model.eval()`).";
    Model CACHE "anatomy-cache" "The graph takes or gives back cached keys and values, but not as whole pairs: every \
        block needs an input for its keys and one for its values, each joined with the new ones along the positions, \
        and the joined ones as an output. The message says what was expected and what was found. Export the decoder \
        with its whole cache, or without any (with torch, `model.config.use_cache = False`; with other exporters, \
        the task without `-with-past`).";
    Model CHECK_SHAPE "anatomy-check-shape" "While the identities between the parts of a model were checked, an \
        activation or a weight had another shape than the anatomy says, so a part of the graph was taken for another \
        one. `engraft inspect MODEL` shows which edge was taken for which part.";
}
