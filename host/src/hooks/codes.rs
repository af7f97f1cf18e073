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
    Config CORPUS_UNREADABLE "corpus-unreadable" "The text that statistics are gathered from is missing, not UTF-8, or \
        holds no text. Name a plain text file with `[statistics] corpus`, one document a line.";
    Model MOMENT_FOREIGN "statistics-foreign" "A file of statistics belongs to another model, site or corpus than it is \
        asked for. Statistics fit the very model they were gathered on. Delete the file to gather them again.";
}
