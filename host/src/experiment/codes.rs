//! The codes of experiments.

use crate::base::codes;

codes! {
    Config CONFIG_UNREADABLE "config-unreadable" "The experiment file cannot be read: it is missing, it is a folder, \
        this user may not read it, it is not UTF-8 text, or it is larger than 1 MiB (no experiment is). Check the \
        path; the message says what the file system answered.";
    Config CONFIG_SYNTAX "config-syntax" "The experiment file is not TOML. The message names the line and the column \
        where reading stopped; the mistake is there or just before. Texts stand in quotes, lists in square brackets, \
        and a key may be given only once.";
    Config CONFIG_KEY "config-key" "The experiment has a key that engraft does not know. Keys are never ignored, \
        because a misspelt one would silently run another experiment than the one that was meant. The message names \
        the place, the nearest known key and all known ones.";
    Config CONFIG_VALUE "config-value" "A value in the experiment is missing, has another type than its key takes, or \
        is outside what the key allows. The message names the place, what was expected and what was found.";
    Config CONFIG_PATH "config-path" "A file or folder that the experiment names does not exist. Paths in an \
        experiment file are relative to that file, except `[run] out`, which is relative to the working directory. \
        Correct the path, or make the file first.";
    Config CONFIG_OVERRIDE "config-override" "A `--set` cannot be applied. It is spelled `--set \
        method.0.params.layer=2`: keys joined by dots, elements of a list by their number from 0, then `=` and a TOML \
        value (a bare word is taken as a text). The message says which step of the path does not exist.";
    Config CONFIG_PARAM "config-param" "A parameter of a method is unknown to it, missing, of another type or outside \
        its range. The message names the place in the experiment and what the method says. `engraft plugins list` \
        shows the parameters of every method with their defaults and ranges.";
    Config CONFIG_MODE "config-mode" "The run's mode asks for something that a method cannot do: several requests in \
        one call (`batch`), or edits on top of earlier edits (`sequential`). This is refused rather than imitated by \
        a loop, because the numbers would not be those of the named mode. Choose another mode or another method.";
    Config CONFIG_TRAIN "config-train" "The experiment cannot be trained: it has no `[train]` table that says what is learnt \
        from, or none of its methods learns. `engraft run` is for methods as they are; `engraft plugins list` shows which \
        methods learn.";
    Config ARTEFACT_EXISTS "artefact-exists" "The file that a training would write what a method learnt to is there \
        already, and a training does not overwrite unasked. Nothing was run. Name another file with `artefact` of the \
        method, or add `--force`: the old file stays whole until the new one is.";
    Config ARTEFACT_DATA "artefact-data" "The experiment has a `[train]` table, and a method's artefact was trained on other \
        data than it names: another file, limit, validation or seed. Its results would stand under a training that never \
        was. Train anew, or leave the table out where the artefact is the one that is meant. (Where the files of the table \
        are not at hand, this is not checked; the manifest names the hash of the data in any case.)";
    Model CHECKPOINT_DAMAGED "checkpoint-damaged" "The checkpoint in the folder of an interrupted training is not whole, or \
        belongs to another training. Checkpoints are written whole or not at all, so something else than engraft changed \
        the file. Restore it, or delete it to train from the beginning.";
    Runtime RUN_FOLDER "run-folder" "The folder of the run, or a file in it, cannot be written: the disk is full, the \
        place is read-only, or this user may not write there. This is checked before a model is opened. Choose \
        another `[run] out`, or make room; a run that had begun can be continued with `--resume`.";
    Config RESUME_MISSING "resume-missing" "The folder given to `--resume` is not the folder of a run: a file that \
        every run has is missing or cannot be read. Give the folder that holds `resolved.toml` and `cases.jsonl`.";
    Config RESUME_DIFFERS "resume-differs" "The run in this folder was started with other settings, another model, \
        other data or another build of a plugin. Continuing it would mix two experiments in one table. The message \
        names the first difference. Restore what it was, or start a new run.";
    Config RESUME_DAMAGED "resume-damaged" "A line of `cases.jsonl` is not the line of a case. The last line may be \
        torn by a crash and is dropped without a word; an earlier one can only be damaged by something else than \
        engraft. Restore the file, or start a new run.";
    Runtime RUN_BUSY "run-busy" "Another process is writing to this run's folder. Two writers would record cases \
        twice. Wait for the other one to end, or stop it, and try again.";
    Runtime ORDER "workbench-order" "The calls of a workbench came in another order than describe, open, start, edit. \
        This is a defect of the program that drives it; please report it.";
}
