//! The codes of metrics.

use crate::base::codes;

codes! {
    Model SCORES_NAN "scores-nan" "The model gave a probability that is not a number, so nothing can be measured. \
        After an edit this means that the edit has destroyed the model (its weights overflow); before one, that the \
        model itself is damaged or overflows on this device. The case counts as failed. Try a smaller step or a clamp \
        on the update, or run the model's check.";
    Runtime SCORES_SHAPE "scores-shape" "A scorer returned something else than it was asked for: another number of \
        scores than queries, or a query without tokens. This is a defect of the scorer, not of the data. Report it \
        together with the message.";
}
