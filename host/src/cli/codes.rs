//! The error codes of the command line.

use crate::base::codes;

codes! {
    Usage USAGE "usage" "The command line asks for something that cannot be: a value is misspelt, or two options \
        contradict each other. `engraft help COMMAND` shows what a command takes, with an example.";
    Usage CODE_UNKNOWN "code-unknown" "There is no error of that code in this version. `engraft explain` lists all \
        codes. Codes inside square brackets in a message of a plugin are the plugin's own; its README explains them.";
    Model CHECK_FAILED "check-failed" "The model's own numbers contradict its anatomy: an identity such as resid_mid = \
        resid_pre + attn_out does not hold. The anatomy has taken one edge for another, and edits of this model \
        would be wrong. Please report the model's architecture and exporter.";
    Plugin FINDINGS "plugin-findings" "A plugin was checked and something was found. The findings are listed above the \
        error.";
    Runtime OUTPUT "output-failed" "The standard output could not be written to, for instance because it is a file on a \
        full disk. The cause underneath is the operating system's own. A reader that merely stops reading, like \
        `head`, is no error.";
}
