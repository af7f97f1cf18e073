//! The codes of errors of the runtime, its devices, programs, values and tokenizers.

use crate::base::codes;

codes! {
    Runtime RUNTIME_MISSING "runtime-missing"
        "ONNX Runtime's shared library was not found. It is looked for, in this order, at the path that was set explicitly, at `ORT_DYLIB_PATH`, beside the executable and in the cache folder (`ENGRAFT_CACHE`, else `XDG_CACHE_HOME/engraft`, else `~/.cache/engraft`); a path that was set explicitly is never replaced by another. Where none of them has it, it is taken from a Python package with pip, unless `ENGRAFT_OFFLINE` forbids that. Run `engraft setup` on a machine with a network, copy the cache folder, or set `ORT_DYLIB_PATH`.";
    Runtime RUNTIME_DOWNLOAD "runtime-download"
        "ONNX Runtime's Python package could not be downloaded. It is fetched with `pip download`, with the indexes, proxies and certificates of the user's own pip configuration; the causes show what pip said. Install Python's pip, repair the connection or the configuration, or install ONNX Runtime by other means and set `ORT_DYLIB_PATH` to its library. Only Linux on x86-64 and 64-bit ARM have a pinned package, and the one for CUDA exists for x86-64 alone.";
    Runtime RUNTIME_HASH "runtime-hash"
        "The downloaded package of ONNX Runtime is not the one that this version of engraft pins: its SHA-256 differs, so nothing of it was used. A mirror may hold a rebuilt package, or the download was damaged or tampered with. Repeat it; if it stays so, ask whoever runs the package index, or install ONNX Runtime by other means and set `ORT_DYLIB_PATH`.";
    Runtime RUNTIME_UNUSABLE "runtime-unusable"
        "A file was found where ONNX Runtime's library should be, but it cannot be used: it is not a shared library, is one for another processor, is older than the API that engraft needs (1.22), or lacks a library that it needs itself. The cause shows the loader's own words. Remove it or point `ORT_DYLIB_PATH` at another; a damaged cache is renewed with `engraft setup` after its folder is deleted.";
    Runtime RUNTIME_CONFLICT "runtime-conflict"
        "One process can load ONNX Runtime once, and it has already loaded another library than the one asked for now, or with other settings. Use one library for everything in the process, or start another process.";
    Config DEVICE_SPELLING "device-spelling"
        "The name of a device is not one of `cpu`, `cuda` and `cuda:N`, where N is the number of the GPU, counted from 0. `cuda` alone means `cuda:0`.";
    Runtime DEVICE_MISSING "device-missing"
        "The device that was asked for cannot be had. engraft never falls back to another device in silence. For `cuda` there are three things to have: a build of ONNX Runtime with CUDA (`engraft setup --cuda` provides it), NVIDIA's driver with a GPU of that number, and the libraries of CUDA and cuDNN in versions that this build was made for, where the loader finds them (`LD_LIBRARY_PATH`). The message says which of them is missing, and the cause has the loader's own words. Choose `cpu` to run without.";
    Model PROGRAM_INVALID "program-invalid"
        "ONNX Runtime refused the graph. The cause has its reason: an operator or an operator version that it does not have, a type that the device has no kernel for (bfloat16 on a CPU, for instance), shapes that disagree, or external data that is missing, cut off or outside the model's folder. If an unchanged model is refused, export it for an older operator set; if it happens with an edited one, that is a fault of engraft worth reporting.";
    Runtime PROGRAM_MEMORY "program-memory"
        "The memory of the machine, or of the device, did not suffice for loading a graph or for running it. A model's weights are mapped from their files, so about as much memory as they have bytes is needed, and more for long rows, many rows at once, and logits or activations that are asked for at every position. Close other programs, run fewer or shorter rows, or take a machine with more memory.";
    Runtime PROGRAM_PORT "program-port"
        "A graph was fed an input that it does not have, fed one twice, not fed one that it needs, or asked for an output that it does not have. The message lists the names that exist. Seen by users, this is a fault of engraft or of a plugin; it is checked before ONNX Runtime sees the call.";
    Runtime PROGRAM_FEED "program-feed"
        "A value does not fit the input it was fed to: its element type, its rank, a fixed extent, or an extent that shares its name with another input's and differs from it. The message shows what was expected and found. Seen by users, this is a fault of engraft or of a plugin; it is checked before ONNX Runtime sees the call.";
    Runtime PROGRAM_RUN "program-run"
        "ONNX Runtime failed while a graph was running. The cause names the node and the reason: memory that ran out, an index out of range, shapes that disagree, or a fault of the device. With memory, run fewer or shorter rows at once; after a fault of a GPU, start the process anew.";
    Plugin CALLED_SHAPE "intercept-shape"
        "What an activation became in an interception has another shape or element type than the activation, or the activation is not one of rows and columns. The request ended with this error; the model serves on. This is a fault of the method that intercepts.";
    Plugin CALLED_PANICKED "intercept-panicked"
        "What was called in the middle of a forward pass panicked. The request ended with this error; the model serves on. This is a fault of the method that intercepts.";
    Runtime VALUE_TYPE "value-type"
        "A tensor has another element type than the operation can use. engraft feeds and reads f32, f16, i64, i32 and bool.";
    Runtime VALUE_SHAPE "value-shape"
        "The extents of a tensor do not multiply to the number of its values.";
    Model TOKENIZER_MISSING "tokenizer-missing"
        "The model's folder has no `tokenizer.json`, so text cannot become tokens. Older exports have only `vocab.json` and `merges.txt`: save the tokenizer again with a library that writes `tokenizer.json` (a fast tokenizer of `transformers`) and put it beside the model.";
    Model TOKENIZER_INVALID "tokenizer-invalid"
        "A tokenizer's file cannot be used: `tokenizer.json` is cut off, is not one, or was written for a newer version of the `tokenizers` library; or one of the JSON files beside it (`tokenizer_config.json`, `config.json`, `generation_config.json`) is damaged. The cause says where.";
    Model TOKENIZER_VOCABULARY "tokenizer-vocabulary"
        "The tokenizer can produce token ids that the model's embedding has no row for, so they do not belong together: most often the tokenizer of another model, or tokens that were added without enlarging the model. Put the model's own `tokenizer.json` beside it.";
    Model TOKEN_UNKNOWN "token-unknown"
        "A token id that the tokenizer does not know was to be turned into text. The model's vocabulary may be padded beyond the tokenizer's; otherwise the id is a mistake of the caller.";
    Model CHAT_TEMPLATE_MISSING "chat-template-missing"
        "A chat template was asked for and the model has none: neither `chat_template.jinja` nor a `chat_template` in `tokenizer_config.json` lies beside `tokenizer.json` (of several named templates, the one named `default` is taken). Base models have none: ask without it. For a chat model, copy these files from where the model came from.";
    Model CHAT_TEMPLATE_INVALID "chat-template-invalid"
        "The model's chat template cannot be applied. The cause has its own words: it is not valid Jinja, uses something that is not offered (templates see the messages, the special tokens by name and no tools, documents or clock), takes too long, or itself refuses the conversation.";
    Model TOKENIZER_FAILED "tokenizer-failed"
        "The tokenizer could not encode or decode a text. The cause has the library's own words; an incomplete `tokenizer.json` (no token for unknown text, a regular expression that fails) is the usual reason.";
}
