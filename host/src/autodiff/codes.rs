//! The error codes of this folder.

use crate::base::codes;

codes! {
    Model GRADIENT_MISSING "gradient-missing" "A gradient was asked for, and on the way from the loss to the variable \
        lies an operator that engraft cannot differentiate: it has no rule, or its rule does not cover this use of it \
        (the message says which). The message names the node and the path of edges that leads to it. Running and \
        editing without gradients is not affected. Export the model with standard operators (no fused ones, no \
        quantised ones), or choose a site behind that node.";
    Model GRADIENT_OPSET "gradient-opset" "The graph uses a version of the standard operator set that is older than \
        gradients are written for. Running it is not affected. Export the model with operator set 13 or newer; 17 is \
        a good choice.";
    Model GRADIENT_EDGE "gradient-edge" "A gradient was asked for from or towards an edge that the graph does not \
        have. This is a defect of engraft or of the program that embeds it; please report it with the message.";
    Model GRADIENT_WRONG "gradient-wrong" "A gradient and the finite difference of the loss contradict each other by \
        more than rounding explains. Either a gradient rule is wrong, or the loss has a kink or is not smooth enough \
        at this point for the step that was taken. Please report it with the message.";
    Model GRADIENT_WINDOW "gradient-window" "A forward pass over some positions only was to be built, and an operator on \
        the way mixes positions in a manner that is not read. The gradient is then computed over whole rows, which is \
        slower and gives the same numbers; nobody sees this unless a program asks for the window itself.";
}
