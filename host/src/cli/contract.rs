//! The codes that the plugin contract itself uses (`engraft-plugin-api`), where the host has none of that spelling:
//! a plugin's author meets them in brackets, behind `host-` or in a message.

use crate::base::codes;

codes! {
    Usage SITE_UNKNOWN "site-unknown" "A name is not one that a site can have. Sites are the activations of a decoder, \
        spelled `embed`, `ln_final.out`, `logits`, or `blocks.L.NAME` with the layer L counted from 0, for example \
        `blocks.3.mlp.post`. `engraft inspect MODEL` lists those of a model. A name that is well spelled but that the \
        model does not have is `site-absent` instead.";
    Usage WEIGHT_UNKNOWN "weight-unknown" "A name is not one that a weight can have. Weights are spelled by their role: \
        `W_E`, `W_pos`, `W_U`, `b_U`, `ln_final.w`, or `blocks.L.NAME` with the layer L counted from 0, for example \
        `blocks.3.mlp.W_out`. `engraft inspect MODEL` lists those of a model.";
    Plugin TENSOR_SHAPE "tensor-shape" "A tensor of the contract was made with a shape that does not hold its values, or \
        was read as a matrix and is none. The message shows the shape. This is a defect of whoever made the tensor, \
        usually a plugin.";
    Config PROMPT_TEMPLATE "prompt-template" "A prompt or context template must hold `{}` exactly once, where the subject \
        (or the prompt) stands. The message shows the template; write the braces in place of the subject.";
    Interrupted CANCELLED "cancelled" "A method noticed that the host asked it to stop and gave up, as it should. Nothing \
        was changed in the model. The command line reports this as `interrupted`.";
    Plugin ABI_RECORD "abi-record" "A record that crossed the border between host and plugin could not be read: a field \
        is missing or has another type than the reader expects. Host and plugin were built from versions of \
        `engraft-plugin-api` that do not understand each other; rebuild the plugin against the host's version.";
    Plugin ABI_OP "abi-op" "One side of the border asked for a call that the other side does not know, for instance a new \
        plugin on an older host. Nothing was done. Use a host of the plugin's version, or rebuild the plugin.";
    Plugin SPLICE_EMPTY "splice-empty" "A method proposed a splice without a graph: the bytes of its ONNX model are missing. \
        Nothing was changed in the model. This is a fault of the plugin, to be reported to its author.";
    Plugin SPLICE_NAME "splice-name" "Two inputs of a splice's graph would have one name: sites, tables with their gates, and \
        `positions`, `mask`, `prompt_end` and `gate` are told apart by name alone. Nothing was changed in the model. The \
        plugin's author has to rename the table.";
    Plugin ROUTE_OUTSIDE "route-outside" "A method routed a request to a patch that was not among those it was asked about, \
        or named one twice. The request failed, others go on. This is a fault of the plugin, to be reported to its author.";
    Plugin ROUTE_EMPTY "route-empty" "A method routed a request to a prompt without tokens; a model cannot run on nothing. \
        The request failed, others go on. Look at what the method was asked and at its README.";
    Plugin ROUTE_MIX "route-mix" "A method mixes the model with another network by a share that is not between 0 and 1. The \
        request failed, others go on. This is a fault of the plugin, to be reported to its author.";
    Plugin TRAIN_NONE "train-none" "A method was asked to learn something, but learns nothing beforehand: it needs no \
        artefact. Use it without training; `engraft plugins list` shows which methods train.";
    Plugin ARTEFACT_UNUSED "artefact-unused" "An artefact was given to a method that learns nothing. Leave it out, or check \
        that the artefact belongs to this method.";
    Plugin MODULE_REPLY "module-reply" "The host answered a call of a method's own network with something else than was \
        asked for. Host and plugin were built from versions of `engraft-plugin-api` that do not understand each other.";
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// Every code that the contract's sources spell is explained, here or in a folder of the host.
    #[test]
    fn every_code_of_the_contract_is_explained() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugin-api/src");
        let mut found = Vec::new();
        let files = [
            "abi/host",
            "abi/method",
            "abi/mod",
            "access/module",
            "change/slots",
            "change/splice",
            "error",
            "method",
            "method/intercept",
            "method/route",
            "method/train",
            "params",
            "request",
            "site",
            "tensor",
            "weight",
        ];
        for file in files {
            let text = std::fs::read_to_string(folder.join(format!("{file}.rs"))).unwrap();
            let text = text.split("mod tests {").next().unwrap_or_default();
            let text: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
            let mut spelled: Vec<String> = Vec::new();
            // The constants of splices name inputs of graphs.
            let constants = if file == "change/splice" { "Self::new(Self::" } else { "&str = " };
            for lead in ["MethodError::new(", constants, "Self::new(Self::"] {
                let after = text.split(lead).skip(1).filter_map(|t| t.trim_start().strip_prefix('"'));
                spelled.extend(after.filter_map(|t| t.split('"').next()).map(str::to_owned));
            }
            found.extend(spelled);
        }
        assert!(found.len() > 12 && found.contains(&"prompt-template".to_owned()), "{found:?}");
        for code in found {
            assert!(crate::codes::find(&code).is_some(), "`{code}` is not explained");
        }
    }
}
