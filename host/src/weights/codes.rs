//! The error codes of this folder.

use crate::base::codes;

codes! {
    Plugin DELTA_SHAPE "delta-shape" "A method proposed a delta whose shape does not fit the weight: a low-rank delta \
        is `[in, rank] · [rank, out]`, a dense one has the weight's shape `[in, out]`, rows lie below `in`. Nothing \
        was changed. This is a defect of the plugin.";
    Plugin DELTA_NOT_FINITE "delta-not-finite" "A method proposed a delta that holds NaN or an infinity. Nothing was \
        changed. An optimisation that diverged is the usual cause: lower its learning rate.";
    Plugin DELTA_TOO_LARGE "delta-too-large" "A method proposed a delta many times larger than the weight itself, \
        which would destroy the model. Nothing was changed. A nearly singular covariance or a tiny denominator is the \
        usual cause.";
    Plugin DELTA_WEIGHT "delta-weight" "A method proposed to change a weight that this model does not have. Nothing \
        was changed.";
    Plugin SLOTS_SHAPE "slots-shape" "A method proposed slots whose tensors do not fit one another or the model: keys \
        are `[d_model, n]`, biases `[n]` and values `[n, d_model]`, all float32, and there is at least one neuron. \
        Nothing was changed. Slots that were made for a model of another width are the usual cause.";
    Plugin SLOTS_NOT_FINITE "slots-not-finite" "A method proposed slots that hold NaN or an infinity. Nothing was \
        changed. A training that diverged is the usual cause: lower its learning rate.";
    Plugin SLOTS_TOO_MANY "slots-too-many" "An MLP would have more slots than 10 000, those of all active patches \
        together. Nothing was changed. Roll back patches that are no longer needed, or spread slots over blocks.";
    Plugin STATE_TWICE "patch-state-twice" "A method proposed more than one state in one patch. A patch carries at most \
        one, which holds all that the method remembers of the edit. Nothing was changed. This is a defect of the plugin.";
    Plugin STATISTIC_PART "statistic-part" "A method proposed a part of a running statistic that has no name or holds NaN \
        or an infinity. Nothing was changed.";
    Plugin CHANGE_UNSUPPORTED "change-unsupported" "A method proposed a change of a kind that this host does not carry \
        out. The patch was refused whole, and nothing was changed. A newer host may know it.";
    Model PATCH_BASE "patch-base" "The patch was made for another base model: its hash differs from that of the model \
        that is open. A patch fits the very weights it was computed on, and no others.";
    Model PATCH_FILE "patch-file" "The file is not a patch file, or it is damaged. Patch files are written by \
        `engraft edit --save`.";
    Model PATCH_APPLIED "patch-applied" "The patch is active already; applying it a second time would double it.";
    Model PATCH_UNKNOWN "patch-unknown" "There is no active patch of that name: it was never committed, or it is \
        rolled back already. `engraft patches list --journal DIR --history` shows what happened to each.";
    Usage PATCH_AMBIGUOUS "patch-ambiguous" "The digits that were given are the beginning of the names of several patches, \
        so none was taken. The message shows two of them. Give more digits, or all 16.";
    Model JOURNAL_DAMAGED "journal-damaged" "The journal holds a line that is not one of its entries or cannot follow the \
        one before it, or the file of an active patch is missing or damaged; the message names the line or the file. A \
        torn last line is dropped by itself; this is something else. Nothing was changed. Restore the folder from a \
        copy, or begin a new one.";
    Model JOURNAL_MISSING "journal-missing" "The folder holds no journal, or is not there. `engraft edit --journal DIR`, \
        `engraft patches apply` and programs that open a model with a journal begin one; what only reads a journal, or \
        takes patches out, does not.";
    Runtime JOURNAL_BUSY "journal-busy" "Another process, or another model of this one, holds the journal: two that write \
        would each serve a model that the journal does not tell of. Use the model of the other one, or end it and try \
        again. `engraft patches list` and `show` read a journal that is held.";
    Model JOURNAL_STATE "journal-state" "The active patches of a journal were summed anew, and the sum does not have the \
        hash that the journal recorded: the model would not be the one that was left. A file was changed in a way that \
        its own hash does not show, or the journal was written by a version of engraft that sums otherwise. Nothing was \
        changed. Restore the folder from a copy, or apply its patches to a new journal.";
}
