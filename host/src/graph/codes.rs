//! The error codes of this folder.

use crate::base::codes;

codes! {
    Model MODEL_MISSING "model-missing" "There is no model at the path. A model is a folder that holds `model.onnx` \
        (or `onnx/model.onnx`, or one `decoder_model*.onnx`), or the path of an .onnx file itself.";
    Model MODEL_UNREADABLE "model-unreadable" "The model file exists but could not be read: check its permissions and \
        the disk.";
    Model MODEL_NOT_ONNX "model-not-onnx" "The file is not a valid ONNX model: it is empty, cut off, or another kind \
        of file. A download that was interrupted, or a Git LFS pointer in place of the file, are the usual causes. \
        Fetch the model again and compare its size.";
    Model GRAPH_INVALID "graph-invalid" "The graph contradicts itself: two nodes make one edge, an edge is read that \
        nobody makes, nodes form a cycle, or a function of the model calls itself or is called as it is not declared. \
        ONNX Runtime would refuse it too. Export the model again.";
    Model GRAPH_UNSUPPORTED "graph-unsupported" "The graph uses a feature that is not read: sparse initializers, \
        functions written for another operator set than the model itself, tensors in memory of another process, \
        external data in an attribute of an operator. Export the model without it.";
    Model DATA_MISSING "data-missing" "The model keeps weights in an external data file that is not there. The \
        file belongs beside the .onnx file, under the name that the model gives; copy it there.";
    Model DATA_TRUNCATED "data-truncated" "The external data file is shorter than the model says, or the size of a \
        tensor does not follow from its shape. The download was cut off, or the file belongs to another export.";
    Model DATA_OUTSIDE "data-outside" "The model names an external data file outside its own folder (an absolute \
        path, `..`, or a link that leads out). That is refused, because a model could otherwise read any file of the \
        user. Links are followed as far as the folder that the .onnx file itself resolves to.";
    Model TENSOR_TYPE "tensor-type" "A tensor has an element type that this operation cannot read. Weights are read \
        as float32, float16 or float64; shapes as int64 or int32.";
    Model PATCH_INVALID "graph-patch-invalid" "A change of the graph was asked for that does not fit it: an edge that \
        does not exist, a name that is taken, an operator with no output. This is a defect of engraft or of a plugin \
        that supplies graph parts; please report it with the message.";
    Plugin GRAPH_OPSET "graph-opset" "A graph that a method supplies is written for another version of the standard \
        operators than the model it is put into, and one of its nodes does not say exactly the same in both; the message \
        names the node. Operators that did not change between the two versions are taken over, and so are the axes of \
        reductions. Write the graph with operators that did not change, or for the model's version.";
    Model MODEL_WRITE "model-write" "The graph does not fit into one ONNX file, which holds at most 2 GiB. Weights belong \
        into external data files; export the model with external data.";
    Usage EXPORT_EXISTS "export-exists" "A model is to be exported to a place where something is already. An export \
        never overwrites: name a folder that does not exist, or an empty one.";
}
