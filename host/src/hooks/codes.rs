//! The error codes of this folder.

use crate::base::codes;

codes! {
    Plugin POKE_SHAPE "poke-shape" "A method asked to overwrite or add values at a site, but their shape is not \
        `[places, width]` or `[1, width]` with the site's width. This is a defect of the plugin.";
    Plugin PLACE_OUTSIDE "place-outside" "A method named a row or a position that the request does not have, or one \
        place twice. Rows and positions count from 0, padding excluded. This is a defect of the plugin.";
    Plugin SITE_NOT_POKABLE "site-not-pokable" "Values can be put in at sites that have one vector for each row and \
        position; the attention pattern is not one of them.";
    Plugin SLOTS_PLACE "slots-place" "Slots cannot be put into that block: the model has no such block, or where its MLP \
        begins or ends is not known, for the reason given. `engraft inspect MODEL` lists what there is. Nothing was \
        changed.";
    Plugin SLOTS_ACTIVATION "slots-activation" "Slots were to have the activation function of the model's own MLP, but \
        it cannot be copied for another number of neurons: it is not known where it begins and ends, or a part of it is \
        learned for each neuron or mixes them, as a norm does. Nothing was changed. Slots with the activation function \
        `relu` can be put in.";
    Plugin SPLICE_GRAPH "splice-graph" "The graph of a splice cannot be used: its bytes are missing or are not an ONNX \
        model, it keeps values in other files, holds graphs within nodes, has not exactly one output, or its operands \
        contradict each other. The message says which. Nothing was changed. This is a defect of the plugin.";
    Plugin SPLICE_INPUT "splice-input" "The graph of a splice has an input that a host does not feed, or one of another \
        rank, width or element type than what is fed. A host feeds the sites that the splice reads, `positions`, `mask`, \
        `prompt_end`, `gate`, its tables, and `TABLE.gate` of each stacked one; no two of these may have one name. \
        Nothing was changed. This is a defect of the plugin.";
    Plugin SPLICE_TABLE "splice-table" "A table of a splice has no name, no axis to be stacked along, or holds NaN or an \
        infinity; or it cannot be folded with the tables of the same name of active patches: all have one fold, one \
        element type and the same extents (stacked ones but for the first), and stacked tables whose first extent has \
        one name in the graph have as many entries. Nothing was changed.";
    Plugin SPLICE_OPERATOR "splice-operator" "The graph of a splice uses an operator that is not one of the standard ones, \
        one that is not followed through shapes and types, or one that means something else in the model's version of the \
        standard operators; the message names it. Nothing was changed. Write the graph with plain standard operators of \
        version 13 or newer.";
    Plugin SPLICE_OUTPUT "splice-output" "The graph of a splice does not make what it is to write: its output is not of \
        float32, or its extents are not those of the site for every number of rows and columns. A value that would have \
        to be repeated to fit is refused as well. Nothing was changed. This is a defect of the plugin.";
    Plugin SPLICE_READ "splice-read" "A splice reads a site that is not computed before the one it writes. What it reads \
        must lead to what it writes, or be the written site itself. Nothing was changed. This is a defect of the plugin.";
    Plugin SPLICE_PLAIN "splice-plain" "A model cannot be exported with a splice that asks for what a plain model is not \
        told: the end of each row's prompt, or whole rows where keys and values are cached. Positions and the mask are \
        derived from the model's own inputs. Nothing was written. Leave the splice's patches out of the export, or run \
        the model with its patches.";
    Config CORPUS_UNREADABLE "corpus-unreadable" "The text that statistics are gathered from is missing, not UTF-8, or \
        holds no text. Name a plain text file with `[statistics] corpus`, one document a line.";
    Model MOMENT_FOREIGN "statistics-foreign" "A file of statistics belongs to another model, site or corpus than it is \
        asked for. Statistics fit the very model they were gathered on. Delete the file to gather them again.";
}
