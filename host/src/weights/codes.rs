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
    Model PATCH_BASE "patch-base" "The patch was made for another base model: its hash differs from that of the model \
        that is open. A patch fits the very weights it was computed on, and no others.";
    Model PATCH_FILE "patch-file" "The file is not a patch file, or it is damaged. Patch files are written by \
        `engraft edit --save`.";
    Model PATCH_APPLIED "patch-applied" "The patch is active already; applying it a second time would double it.";
    Model PATCH_UNKNOWN "patch-unknown" "There is no active patch of that name: it was never committed, or it is \
        rolled back already.";
    Model JOURNAL_DAMAGED "journal-damaged" "The journal holds a line that is not one of its entries, or a patch that \
        it names is missing. A torn last line is dropped by itself; this is something else. Restore the folder from a \
        copy, or begin a new one.";
}
