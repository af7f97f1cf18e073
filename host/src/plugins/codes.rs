//! The codes of errors in finding, loading, configuring and calling plugins.

use crate::base::codes;

codes! {
    Plugin MISSING "plugin-missing"
        "There is no plugin of that name or at that path. A name like `rome` is looked up as `libengraft_rome.so` and `librome.so` in the folders of `--plugin-dir`, then those of `ENGRAFT_PLUGIN_PATH`, the folder of the executable and its `deps` folder, and the user's data folder (`engraft/plugins` below `XDG_DATA_HOME` or `~/.local/share`). A path ends in `.so` or holds a slash. Check the spelling, build the plugin, or name its folder.";
    Plugin FILE "plugin-file"
        "The file is not a shared library that this machine can load: it is no ELF file, it was cut off, or it was built for another processor. It was not opened as a library, so nothing of it has run. Build the plugin for this machine and copy it whole.";
    Plugin NOT_A_PLUGIN "plugin-not-a-plugin"
        "The file is a shared library, but not an engraft plugin: it does not export the root module that `export_method!` makes. It was not opened as a library, so nothing of it has run. Check that the path names the plugin and that its crate is a `cdylib` with `export_method!` at its end.";
    Plugin PIN "plugin-pin"
        "The bytes of the plugin are not those that were asked for: their SHA-256 differs from the pinned one (`pin` of a [[method]], or `--pin`). The message gives both. The library was not opened, so nothing of it has run. If the plugin was rebuilt on purpose, pin its new hash, which `engraft plugins list` shows; otherwise find out who changed the file.";
    Config PIN_SPELLING "plugin-pin-spelling"
        "A text that should be a pin is not one. A pin is the SHA-256 of a plugin's file, spelled `sha256:` and 64 lower-case hexadecimal digits. `engraft plugins list` shows the pin of every plugin on the search path; `sha256sum FILE.so` gives the digits too.";
    Plugin LOAD "plugin-load"
        "The system's loader refused the library. The cause underneath is the loader's own text; usually a library that the plugin was linked to is missing, or one of its symbols is. Install what is missing or build the plugin anew on this machine.";
    Plugin ABI_STABLE "plugin-abi-stable"
        "The plugin was built with another version of `abi_stable`, the crate that describes the types at the border, so nothing else about it can be checked. No function of it was called. Rebuild it against the version of `engraft-plugin-api` that belongs to this host.";
    Plugin VERSION "plugin-version"
        "The plugin was built with a version of `engraft-plugin-api` that does not fit this host's. Versions fit if their major numbers agree; those before 1 fit no other. No function of the plugin was called. Rebuild it against the version that the message names, or use a host of the plugin's version.";
    Plugin LAYOUT "plugin-layout"
        "The plugin says that it was built with a fitting version of `engraft-plugin-api`, but its types at the border are laid out in another way than the host's; the cause underneath lists the differences. No function of the plugin was called. Usually it was built against a changed copy of that crate: rebuild it against the published one.";
    Plugin PANICKED "plugin-panicked"
        "The plugin panicked: it found something that its author thought impossible. The panic was caught at the border, nothing was changed in the model, and other methods work on. The message gives the call and the plugin's own words; this is a fault of the plugin, to be reported to its author with the request that caused it.";
    Plugin POISONED "plugin-poisoned"
        "The method panicked in an earlier call, and a panic may leave it half changed, so it is not called again. Create the method anew; if it panics again, the plugin has a fault that is to be reported to its author.";
    Plugin DESCRIPTOR "plugin-descriptor"
        "What the plugin says of itself contradicts itself: its name is not made of lower-case letters, digits and dashes, two parameters share a name, or a default is not a value of its own parameter. This is a fault of the plugin, to be reported to its author.";
    Plugin DUPLICATE "plugin-duplicate"
        "Two different plugin files define a method of the same name, or a loaded file changed on disk. Libraries cannot be unloaded, and results name methods, so the second one is refused. Remove one of the files from the search path, name the one that is meant by its path, or start anew after a rebuild.";
    Plugin RECORD "plugin-record"
        "What the plugin sent across the border cannot be read: something is missing, or a tensor's shape and values disagree. Nothing of it was used. A plugin that uses the plain types of `engraft-plugin-api` cannot do this; it is a fault of the plugin, to be reported to its author.";
    Plugin CALL "plugin-call"
        "A plugin was asked for a call that it does not implement, or a plugin asked this host for a call that the host does not answer. The message names the call. Which calls a plugin implements, it announces when it is loaded; a call that only newer hosts answer needs such a host. Nothing was changed in the model.";
    Plugin ARTEFACT_MISSING "artefact-missing"
        "The method works only with what it learnt before, and no artefact was given to it; or a patch that has its method called was made with an artefact that was not given. Train the method on this model first and name the artefact that this gives; for a patch that is there, name the one that the message tells: another one, also of the same training data, would find other requests in its scope.";
    Model ARTEFACT_FILE "artefact-file"
        "The file is not what `engraft train` wrote, or it was changed or cut off since: its description and its content do not agree. Nothing was done. Check the path; if it is the right one, copy the file again from the folder of its training, or train anew.";
    Plugin ARTEFACT_METHOD "artefact-method"
        "The artefact was learnt by another method than it was given to, so its bytes mean something else. Nothing was done. The message names both methods; give each method the artefact of its own training. Another version of the same method is no error here: whether it can read the bytes, it says itself.";
    Model ARTEFACT_BASE "artefact-base"
        "The artefact was trained on another base model: what it learnt says nothing about this one. The message gives both hashes. Nothing was done. Train the method on this model, or open the model of the artefact.";
    Plugin ARTEFACT_UNBOUND "artefact-unbound"
        "The training ended with an artefact that is bound to another model or to other data than it was given. The artefact was not kept. This is a fault of the plugin, to be reported to its author: it has to make artefacts of the facts and the data that it was called with.";
    Plugin FAILED "plugin-failed"
        "The method could not do what was asked and says why; its own code stands in brackets. Nothing was changed in the model. What to do depends on the method's words and on its README.";
    Plugin HANGS "plugin-hangs"
        "The plugin was asked to stop and did not return in time. It does not react to cancellation, and a native call that is blocked cannot be stopped from outside: its thread was left behind and still uses memory and perhaps a core. Nothing was changed in the model. End the process to be rid of it, and report the plugin to its author: `ModelAccess::cancelled` is to be asked often. A call in the middle of a request has the time that `--patience`, or `[run] patience` of an experiment, gives it: a minute, if neither is said.";
    Model HOST_CALL "plugin-host-call"
        "The method asked the host for something that failed, and gave up. The host's own code stands in brackets; look that up with `engraft explain`. Nothing was changed in the model.";
    Plugin HOST_REFUSED "plugin-host-refused"
        "The method asked the host for something that cannot be, such as values whose shape does not fit, or a row that its own request does not have, and gave up. The host's own code stands in brackets; look that up with `engraft explain`. Nothing was changed in the model. This is a fault of the plugin, to be reported to its author.";
    Runtime HOST_PANICKED "plugin-host-panicked"
        "The host itself panicked while it served a call of a method. The panic was caught, nothing was changed in the model. This is a fault of engraft, to be reported with the message and the request that caused it.";
    Runtime THREAD "plugin-thread"
        "The system could not start a thread for a call of a plugin: a limit on threads or memory is reached. The call was not made. End other programs or raise the limit (`ulimit -u`).";
    Config PARAM_UNKNOWN "param-unknown"
        "A parameter was given that the method does not have. The message names the nearest one; `engraft plugins list` shows all parameters of a method with their types, ranges and defaults.";
    Config PARAM_MISSING "param-missing"
        "A parameter that has no default was not given. Add it to `params = { ... }` of the method; `engraft plugins list` shows what it takes.";
    Config PARAM_TYPE "param-type"
        "A parameter was given a value of another type than it takes, for example a string where a number belongs. `engraft plugins list` shows what each parameter takes.";
    Config PARAM_RANGE "param-range"
        "A parameter was given a value outside of its range or choice. The message names the range; `engraft plugins list` shows it with the default.";
    Config NO_CORPUS "corpus-missing"
        "A method asked for statistics of an activation, but the experiment names no corpus and the model folder names no default one. Set `[statistics] corpus` to a plain text file, one document a line.";
    Usage ACCESS_METHOD "access-method"
        "A method asked for its own active patches or for a statistic of them, and the access that it was given does not say which method asks. This is a fault of the program that embeds engraft: make the access with `Access::new(..).of(NAME)`.";
}
