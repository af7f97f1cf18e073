//! The error codes of this folder.

use crate::base::{Class, codes};

codes! {
    Model MODEL_DTYPE "model-dtype" "A weight of the model has an element type that is not computed with, \
        or an input one that is not fed: token ids, mask and positions are int64, int32, bool, float32 or float16. \
        Models in float32 and float16 run everywhere, and those that mix the two. bfloat16 runs on CUDA alone, since \
        ONNX Runtime has no operators for it on a CPU: export such a model in float32 (`model.float()` in PyTorch), which \
        holds every bfloat16 number exactly.";
    Config ROW_EMPTY "row-empty" "A row of tokens is empty, or there are no rows. A prompt must hold at least one token.";
    Config ROW_TOO_LONG "row-too-long" "A text has more tokens than the model's context, or than that of a network which a \
        method lets answer (the rows of its table of positions, or what the `config.json` beside it says). Shorten the \
        prompt, the target or the context prefixes, and what a method puts before a prompt.";
    Config ROW_EXTENT "row-extent" "The model was exported for rows of one shape alone: an input has a number where others \
        have a symbol for the batch or the sequence, and the rows that were given, or that a method made, do not have \
        that shape. A text cannot be continued on a fixed sequence at all. Export the model with dynamic axes \
        (`dynamic_axes` or `dynamic_shapes` in PyTorch), or give rows of just that shape; the message names the input.";
    Plugin TOKEN_OUTSIDE "token-outside" "A token id is not below the number of rows of the embedding. The runtime may \
        read beyond the table for such an id, so it is refused first. A tokenizer of another model is the usual cause.";
    Config ACTIVE_ROWS "active-rows" "Patches were chosen for another number of rows than the request has. Say nothing \
        and every row sees every patch, say it once for all rows, or once for each row in their order.";
    Config DECODING "decoding-invalid" "What was asked of the choice of the next token cannot be: a temperature must be \
        above 0, the number of most probable tokens at least 1, their share of the probability above 0 and at most 1, \
        and a stop text must not be empty. For the most probable token at every step, ask for greedy decoding.";
    Runtime LOGITS_NOT_FINITE "logits-not-finite" "A pass gave NaN, or an infinity as the greatest logit, where a token was to \
        be chosen or scored: there is no most probable token, and no answer is made up. Patches that make activations \
        overflow are the usual cause, in float16 above all; look at the model without them (`--patch none`), then at each.";
    Model CACHE_SHAPE "cache-shape" "After a pass the graph gave back cached keys or values of another shape than those \
        of every position so far. A cache that forgets old positions, as some exports of models with a sliding window \
        have, is not read. Export the model with a cache that keeps every position, or without one.";
    Model LOGITS_SHAPE "logits-shape" "A pass gave logits of another shape than one row of the vocabulary for each place \
        that was asked for, so the anatomy has taken another edge for the logits. `engraft inspect MODEL --check` shows \
        more; please report the model's architecture and exporter.";
    Runtime NO_EFFECT "edit-no-effect" "The changes were tried, but the model's probe logits are the same to the bit: \
        the edit does not reach the running model. Nothing was changed. A change so small that it is lost in rounding, \
        or a delta of zeros, is the usual cause. At an export: the weights are kept in fewer bits than float32, and \
        rounding to them leaves nothing of any delta, so the exported model would be the unedited one.";
    Plugin EDIT_NOT_FINITE "edit-not-finite" "The changes were tried, and of the model's probe logits some became NaN or \
        infinite: with them the model says nothing. Nothing was changed. A delta that is finite by itself can still be \
        so large that activations overflow, in float16 above all; look at the method's learning rate and clamp.";
    Runtime ROLLBACK_DIFFERS "rollback-differs" "After a rollback the sum of the active patches does not have the hash \
        that the journal recorded for it. The model is not what it was: open it anew. Please report this.";
    Plugin REFERENCE_SHAPE "kl-reference-shape" "The recorded distribution of a divergence term does not have one \
        log-probability for each token of the vocabulary.";
    Plugin TRIAL_UNKNOWN "gradient-variable" "A gradient was asked for with respect to something that the request does \
        not hold: the number of an addition or of a trial change is out of range.";
    Plugin INTERCEPT_METHOD "intercept-method" "A patch has a method called in the middle of forward passes, and the \
        method that made it is not attached to the model with the same parameters. A patch alone cannot do what its \
        method does. The command line attaches the methods of the patches that it is given: put the plugin where it is \
        looked for (`--plugin-dir`). A program attaches it with `Model::attach` before the patch is applied. Or take the \
        patch out.";
    Plugin INTERCEPT_TWICE "intercept-twice" "A method asked in one change to be called twice at one activation. A patch is \
        called once there. Nothing was changed. This is a defect of the plugin.";
    Plugin INTERCEPT_NOT_FINITE "intercept-not-finite" "A method that was called in the middle of a forward pass made \
        NaN or an infinity of an activation; the message names the method and the site. The request ended with this \
        error, and the model serves on. This is a fault of the method.";
    Plugin INTERCEPT_TRIAL "intercept-trial" "A pass was asked for under a trial change that intercepts. A trial change \
        does not say which method is to be called for it, so interceptions act only in patches that are committed. \
        This is a defect of the plugin.";
    Plugin INTERCEPT_GRADIENT "intercept-gradient" "A gradient was asked for whose way from the loss to what it is taken \
        with respect to leads through a site at which a method is called. What the method does there has no \
        derivative that engraft knows. Roll back the patch that intercepts, take the gradient at a later site, or \
        make the change a splice.";
    Plugin SPLICE_CONFLICT "splice-conflict" "Two patches put different graphs between one activation and its readers, with \
        the same order, so that neither comes first. Splices of one graph, with the same sites, tables and order, are \
        folded into one; others need orders that differ. The newer patch was refused, and nothing was changed. Roll the \
        other one back, or give one of the methods another order.";
    Plugin SPLICE_NOT_FINITE "splice-not-finite" "A splice was tried on the probe and made NaN or an infinity; the message \
        names the site. Nothing was changed. A division by a distance or a norm that is zero is the usual cause, and in \
        models of float16 a number beyond 65504.";
    Plugin SPLICE_MIXES "splice-mixes" "A splice was tried on the probe, alone, beside another row of the batch, and with \
        more tokens behind it, and what it made of the probe was not the same. A row must not depend on the rows that \
        happen to share its batch. What a position holds must not depend on later ones either, or texts would be \
        continued otherwise than they are scored; a splice that needs the whole prompt says `whole_rows`, and is then \
        shown whole rows in every pass. Nothing was changed. A mean or a maximum over the wrong axis is the usual cause.";
    Plugin ROUTE_METHOD "route-method" "A patch has a method decide what becomes of requests, and the method that made it \
        is not attached to the model with the same parameters. A patch alone cannot do what its method does. The command \
        line attaches the methods of the patches that it is given: put the plugin where it is looked for (`--plugin-dir`), \
        and name its artefact with `--artefact`. A program attaches it with `Model::attach` before the patch is applied. Or \
        choose other patches for the request, or take the patch out.";
    Plugin ROUTE_PANICKED "route-panicked" "A method panicked while it decided what becomes of a request. The request \
        ended with this error, and the model serves on. This is a fault of the method.";
    Plugin ROUTE_INVALID "route-invalid" "A method decided of a request what cannot be: it named patches that the query \
        does not hold, gave a prompt without tokens or with tokens that the model lacks, or a share outside of 0 to 1. \
        The request ended with this error, and the model serves on. This is a fault of the method.";
    Plugin ROUTE_VOCAB "route-vocab" "The network that a method lets answer does not give finite logits \
        `[rows, columns, vocab]` of the vocabulary of the model that is edited, as its first output, or the \
        `tokenizer.json` beside it gives ids another meaning than the model's does. A network with another vocabulary \
        cannot answer for the model. Train or export it with the model's tokenizer.";
    Plugin ROUTE_TRIAL "route-trial" "A pass was asked for under a trial change that routes. A trial change does not say \
        which method is to be asked for it, so routes act only in patches that are committed. This is a defect of the \
        plugin: it is to leave the route, and what intercepts, out of the changes that it tries.";
    Plugin MODULE_UNKNOWN "module-unknown" "A method named a network of its own that it has not opened on this model. \
        This is a defect of the plugin: a network is opened before it is used, for each model anew.";
    Plugin MODULE_WEIGHT "module-weight" "A method named a weight that its network does not have, gave it values of \
        another shape or type than it has, or gave the bytes of a graph whose weights lie in other files. Nothing was \
        changed. This is a defect of the plugin.";
    Plugin MODULE_OUTPUT "module-output" "A method asked its network for an output that it does not have, or for a \
        gradient from one that has no known axes or is not of floats. This is a defect of the plugin or its network.";
    Plugin MODULE_VARIABLE "module-variable" "A gradient of a method's network was asked for with respect to something \
        that is no input of floats which is fed, or no weight of floats. This is a defect of the plugin.";
    Plugin MODULE_CALL "module-call" "A method asked for something of its network that this host does not know: the \
        plugin was built for a newer one.";
    Model EXPORT_INTERCEPT "export-intercept" "An active patch has a method called in the middle of forward passes, \
        which a plain ONNX model cannot hold. Nothing was written. Leave the patch out of the export (`--patch` on the command \
        line, `Model::rollback` in a program).";
    Model EXPORT_ROUTE "export-route" "An active patch has a method decide what becomes of each request, which a plain \
        ONNX model cannot hold. Nothing was written. Leave the patch out of the export (`--patch` on the command line, \
        `Model::rollback` in a program).";
    Model EXPORT_TARGET "export-target" "A model cannot be exported to the place asked for: it is the base model's own \
        folder. Name a folder of its own.";
}

/// The class of a code that calls of a model can end with: of this folder, or of one below it.
pub fn class_of(id: &str) -> Option<Class> {
    let folders = [
        ALL,
        crate::base::codes::ALL,
        crate::graph::codes::ALL,
        crate::anatomy::codes::ALL,
        crate::autodiff::codes::ALL,
        crate::weights::codes::ALL,
        crate::runtime::codes::ALL,
        crate::hooks::codes::ALL,
    ];
    folders.into_iter().flatten().find(|code| code.id == id).map(|code| code.class)
}
