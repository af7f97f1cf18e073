//! The codes of data sets.

use crate::base::codes;

codes! {
    Config DATA_KIND "data-kind" "No loader has this name. `[data] kind` names the schema of the file, not the file: \
        the message lists the kinds that are known and the nearest one. Correct the spelling.";
    Config DATA_UNREADABLE "data-unreadable" "The data file cannot be read: it is missing, it may not be read by this \
        user, or it is not UTF-8 text. Paths in an experiment file are relative to that file. Correct the path, the \
        permissions or the encoding.";
    Config DATA_MALFORMED "data-malformed" "The data file is not JSON from beginning to end. The usual causes are a \
        download that broke off, a web page or a pointer of a large-file store saved in its place, and a comma too \
        many after an edit by hand. The message names the line and the column; nothing was read from the file.";
    Config DATA_SCHEMA "data-schema" "The file is JSON, but a record does not have the fields of the named schema: a \
        field is missing or has another type. Either the file belongs to another `kind`, or it was converted wrongly. \
        The message names the record (counted from 0), the line and the column; nothing was read from the file.";
    Config DATA_EMPTY "data-empty" "The data file holds no record that can be used, so there is nothing to edit. \
        The message says how many records were skipped and why the first of them was. Choose another file, or \
        correct the records.";
}
