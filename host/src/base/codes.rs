//! The codes of errors that any folder can meet: files, folders, hashes and interruption.

use super::error::codes;

codes! {
    Interrupted INTERRUPTED "interrupted"
        "The user asked to stop, with Ctrl-C or through a cancellation token of the embedding program, and the work stopped at its next safe point. Nothing is half written: finished records are whole, unfinished ones are absent. Start the same command again; a run is continued with `--resume`.";
    Config FILE_MISSING "file-missing"
        "A file that was named does not exist. The message gives the path as it was understood: a relative one on the command line is below the working directory, one in an experiment below that file. Check the spelling.";
    Runtime FILE_READ "file-read"
        "A file could not be opened or read. The message names the file and the cause underneath is the operating system's own: it is a folder, its permissions forbid it, or the device failed. Check the spelling of the path and who may read it.";
    Runtime FILE_WRITE "file-write"
        "A file could not be written. Files are written beside their place under another name and then renamed, so the old file, if there was one, is still whole, and the unfinished one has been removed. The cause underneath is the operating system's own; check the permissions of the folder and whether it is mounted read-only.";
    Runtime DISK_FULL "disk-full"
        "The disk, or the user's quota on it, was full before a file was written to its end. The old file, if there was one, is still whole, and the unfinished one has been removed. Free some space, or choose a folder on another disk, and repeat the command.";
    Config FOLDER_NOT_WRITABLE "folder-not-writable"
        "A folder that results are to be written to cannot be made or written to. It is checked before any work begins, so that nothing is computed in vain. Choose another folder, or change the permissions of this one.";
    Config HASH_SPELLING "hash-spelling"
        "A text that should be a hash is not one. Hashes are BLAKE3, spelled as 64 lower-case hexadecimal digits. The file it was read from has probably been edited by hand or cut off.";
    Plugin PLAIN_TYPE "plain-type"
        "A value of the plugin contract contradicts itself: a tensor whose shape does not hold its values, or one of integers where floats were expected. This is a defect of the plugin, or of engraft; please report the message.";
}
