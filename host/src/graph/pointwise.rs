//! The operators that work on each element by itself: the one list of them.

use super::node::Node;

/// True for a standard operator whose result at an index depends on its operands at that index alone, after they are
/// broadcast against each other. Of `CastLike`'s second operand it is the type alone that counts; `Dropout` is meant as
/// it is outside of training.
pub fn is_pointwise(node: &Node) -> bool {
    node.domain().is_empty()
        && matches!(
            node.op(),
            // Numbers from numbers.
            "Abs" | "Add" | "Ceil" | "Celu" | "Clip" | "Cos" | "Div" | "Dropout" | "Elu" | "Erf" | "Exp" | "Floor" | "Gelu"
                | "HardSigmoid" | "HardSwish" | "Identity" | "LeakyRelu" | "Log" | "Max" | "Mean" | "Min" | "Mish" | "Mul"
                | "Neg" | "Pow" | "PRelu" | "Reciprocal" | "Relu" | "Round" | "Selu" | "Sigmoid" | "Sign" | "Sin"
                | "Softplus" | "Softsign" | "Sqrt" | "Sub" | "Sum" | "Swish" | "Tanh" | "ThresholdedRelu"
            // Truth values, choices and types.
                | "And" | "Cast" | "CastLike" | "Equal" | "Greater" | "GreaterOrEqual" | "IsInf" | "IsNaN" | "Less"
                | "LessOrEqual" | "Not" | "Or" | "Where" | "Xor"
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_beside_an_element_is_not_pointwise() {
        let node = |op: &str| Node::new(op, "n", &["x"], &["y"]);
        for op in ["Add", "Where", "Gelu", "Swish", "Sin", "CastLike"] {
            assert!(is_pointwise(&node(op)), "{op}");
        }
        for op in ["Softmax", "LayerNormalization", "ReduceMean", "CumSum", "MatMul", "Reshape"] {
            assert!(!is_pointwise(&node(op)), "{op}");
        }
        assert!(!is_pointwise(&node("Gelu").of_domain("com.microsoft")));
    }
}
