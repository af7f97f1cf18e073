//! The error codes of the command line.

use crate::base::codes;

codes! {
    Usage USAGE "usage" "The command line asks for something that cannot be: a value is misspelt, or two options \
        contradict each other. `engraft help COMMAND` shows what a command takes, with an example.";
    Usage CODE_UNKNOWN "code-unknown" "There is no error of that code in this version. `engraft explain` lists all \
        codes. Codes inside square brackets in a message of a plugin are the plugin's own; its README explains them.";
    Usage OUTPUT_EXISTS "output-exists" "There is something already where a result is to be written, and results do not \
        overwrite unasked. Nothing was run. Choose another name, or add `--force` where a file may be replaced; the old \
        one then stays whole until the new one is. A folder, a socket or a block device is never replaced; into a FIFO \
        or a character device, such as `/dev/null` or a pipe of the shell, results are written as they come.";
    Usage NO_GRADIENT "gradient-site" "A gradient was asked for at an activation that has no vector for each row and \
        position: the attention pattern, whose axes are `[batch, head, query, key]`. Ask for the gradients at \
        `attn.q`, `attn.k`, `attn.v` or `attn.z` instead.";
    Config ROWS_FILE "rows-file" "The file that was given with `--ids` is not a list of rows of token ids. It is JSON, a \
        list of lists of whole numbers from 0, for example `[[12, 7, 88], [5, 9]]`; rows may differ in length. The \
        message gives the line and column at which it stops being one.";
    Config ROWS_EMPTY "rows-empty" "There is nothing to run: the file or the options give no row, or a row without a \
        token. A row needs at least one token, since what follows its last position is what is looked at.";
    Config ROWS_LONG "rows-long" "A row has more tokens than the model has positions for. Shorten it; \
        `engraft inspect MODEL` shows the context.";
    Config TOKEN_RANGE "token-range" "A token id in a file of rows or on the command line is not below the number of rows \
        of the model's embedding. The usual cause is a tokenizer of another model, or ids that count from 1.";
    Model PROBE_SHAPE "probe-shape" "An activation or gradient that was asked for does not have the shape that the \
        anatomy says, so a part of the graph was taken for another one, and nothing was written. \
        `engraft inspect MODEL --check` shows more; please report the model's architecture and exporter.";
    Model CHECK_FAILED "check-failed" "The model's own numbers contradict its anatomy: an identity such as resid_mid = \
        resid_pre + attn_out does not hold. The anatomy has taken one edge for another, and edits of this model \
        would be wrong. Please report the model's architecture and exporter.";
    Model GRADIENT_CHECK "check-gradient" "A gradient that engraft computes does not say how the loss changes: nudging a \
        few values of a site or weight moves the loss by another amount. Methods that train on gradients would go \
        astray on this model. Repeat the check with another `--seed`; if it stays so, please report the model's \
        architecture and exporter.";
    Plugin FINDINGS "plugin-findings" "A plugin was checked and breaks a law that hosts rely on, crashed, or did not come \
        to an end. The findings are listed above the error, each with what was expected; the chapter on laws in the \
        documentation of `engraft-plugin-api` says why each is there. This is a fault of the plugin, unless it was \
        given parameters that do not fit the model.";
    Runtime CHILD "plugin-process" "A plugin is checked in a process of its own, and that process could not be started, \
        or stopped where no code of the plugin runs: a limit on processes or memory is the usual cause. The message \
        says how it ended. Nothing is known about the plugin.";
    Runtime OUTPUT "output-failed" "The standard output could not be written to, for instance because it is a file on a \
        full disk. The cause underneath is the operating system's own. A reader that merely stops reading, like \
        `head`, is no error.";
}
