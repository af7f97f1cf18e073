//! The gradient rules, one file for each family of operators. Each file's head says which operators, from which
//! operator set on, and the formula; g is the gradient of the output, y the output, x the input.
//!
//! To add a rule: write its function in the family's file, name it in [`find`], and test it in `host/tests/autodiff`.

mod activations;
mod attention;
mod broadcasting;
mod einsum;
mod elementwise;
mod matmul;
mod movement;
mod norms;
mod picking;
mod reductions;
mod rotary;
mod sequences;

use super::facts::Facts;
use super::plan::Visit;
use super::tape::{Grad, Tape};
use crate::base::Result;
use crate::graph::Node;

/// How one operator is differentiated.
#[derive(Clone, Copy)]
pub(super) struct Rule {
    /// Why this use of the operator is not covered, if it is not.
    pub(super) check: fn(&Facts<'_, '_>, &Visit<'_>) -> Check,
    /// The gradients of the inputs that are wanted.
    pub(super) backward: fn(&mut Tape<'_, '_, '_>, &Visit<'_>) -> Result<Gradients>,
}

/// A use of an operator is covered, or it is not, for a reason.
pub(super) type Check = std::result::Result<(), String>;

/// Gradients by input slot.
pub(super) type Gradients = Vec<(usize, Grad)>;

fn covered(_: &Facts<'_, '_>, _: &Visit<'_>) -> Check {
    Ok(())
}

/// The rule of a node's operator.
pub(super) fn find(node: &Node) -> Option<Rule> {
    if !node.domain().is_empty() {
        return None;
    }
    let plain = |backward| Some(Rule { check: covered, backward });
    match node.op() {
        "Add" | "Sum" => plain(elementwise::add),
        "Sub" => plain(elementwise::sub),
        "Mul" => plain(elementwise::mul),
        "Div" => plain(elementwise::div),
        "Pow" => Some(Rule { check: elementwise::check_pow, backward: elementwise::pow }),
        "Max" | "Min" => plain(elementwise::extreme),
        "Mean" => plain(elementwise::mean),
        "Where" => plain(elementwise::choose),
        "Clip" => plain(elementwise::clip),
        "Neg" | "Exp" | "Log" | "Sqrt" | "Reciprocal" | "Tanh" | "Sigmoid" | "Erf" | "Relu" | "Abs" | "Softplus"
        | "Sin" | "Cos" => plain(elementwise::unary),
        "Gelu" | "Swish" | "HardSwish" | "Mish" | "LeakyRelu" | "Elu" | "Celu" | "Selu" | "HardSigmoid"
        | "ThresholdedRelu" | "Softsign" => plain(activations::activation),
        "PRelu" => plain(activations::p_relu),
        "Identity" | "Dropout" => Some(Rule { check: elementwise::check_identity, backward: elementwise::identity }),
        "Cast" | "CastLike" => Some(Rule { check: elementwise::check_cast, backward: elementwise::cast }),
        "Expand" => plain(broadcasting::expand),
        "Tile" => Some(Rule { check: broadcasting::check_tile, backward: broadcasting::tile }),
        "MatMul" => Some(Rule { check: matmul::check_matmul, backward: matmul::matmul }),
        "Gemm" => plain(matmul::gemm),
        "Einsum" => Some(Rule { check: einsum::check, backward: einsum::backward }),
        "Reshape" | "Squeeze" | "Unsqueeze" | "Flatten" => plain(movement::reshape),
        "Transpose" => Some(Rule { check: movement::check_transpose, backward: movement::transpose }),
        "Split" => plain(movement::split),
        "Concat" => plain(movement::concat),
        "Slice" => Some(Rule { check: movement::check_slice, backward: movement::slice }),
        "Pad" => Some(Rule { check: movement::check_pad, backward: movement::pad }),
        "Trilu" => plain(movement::trilu),
        "SplitToSequence" => Some(Rule { check: sequences::check_split, backward: sequences::split }),
        "SequenceAt" => Some(Rule { check: sequences::check_at, backward: sequences::at }),
        "Gather" => Some(Rule { check: picking::check_gather, backward: picking::gather }),
        "GatherND" => Some(Rule { check: picking::check_gather_nd, backward: picking::gather_nd }),
        "GatherElements" => Some(Rule { check: picking::check_gather_elements, backward: picking::gather_elements }),
        "TopK" => Some(Rule { check: picking::check_top_k, backward: picking::top_k }),
        "ScatterND" => Some(Rule { check: picking::check_scatter, backward: picking::scatter_nd }),
        "ScatterElements" => Some(Rule { check: picking::check_scatter, backward: picking::scatter_elements }),
        "ReduceSum" | "ReduceMean" => Some(Rule { check: reductions::check_reduce, backward: reductions::reduce }),
        "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSumExp" => {
            Some(Rule { check: reductions::check_reduce, backward: reductions::extreme_or_norm })
        }
        "CumSum" => plain(reductions::cum_sum),
        "Softmax" => plain(reductions::softmax),
        "LogSoftmax" => plain(reductions::log_softmax),
        "LayerNormalization" => Some(Rule { check: norms::check_layer_norm, backward: norms::layer_norm }),
        "RMSNormalization" => Some(Rule { check: norms::check_rms_norm, backward: norms::rms_norm }),
        "RotaryEmbedding" => Some(Rule { check: rotary::check, backward: rotary::backward }),
        "Attention" => Some(Rule { check: attention::check, backward: attention::backward }),
        _ => None,
    }
}

/// The inputs of a node through which a gradient could come: those that its values depend on continuously. For an
/// operator that no rule knows these are all of them.
pub(super) fn data_slots(facts: &Facts<'_, '_>, node: &Node) -> Vec<usize> {
    if !node.domain().is_empty() {
        return (0..node.inputs().len()).collect();
    }
    match node.op() {
        // Integers, truth values, or constant almost everywhere.
        "Shape" | "Size" | "Equal" | "Less" | "LessOrEqual" | "Greater" | "GreaterOrEqual" | "IsNaN" | "IsInf"
        | "Not" | "And" | "Or" | "Xor" | "ArgMax" | "ArgMin" | "NonZero" | "Floor" | "Ceil" | "Round" | "Sign"
        | "ConstantOfShape" | "Range" | "EyeLike" | "RandomNormalLike" | "RandomUniformLike" | "Bernoulli" => vec![],
        "Cast" => match node.int("to") {
            Some(to) if is_float(to) => vec![0],
            _ => vec![],
        },
        "CastLike" => match node.input(1) {
            Some(like) if facts.may_be_float(like) => vec![0],
            _ => vec![],
        },
        "Where" => vec![1, 2],
        "Reshape" | "Squeeze" | "Unsqueeze" | "Expand" | "Slice" | "Split" | "SplitToSequence" | "SequenceAt"
        | "Gather" | "GatherND" | "GatherElements" | "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin"
        | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSumExp" | "ReduceProd" | "CumSum" | "Tile"
        | "Trilu" | "TopK" | "Clip" | "Dropout" => vec![0],
        "ScatterND" | "ScatterElements" | "Pad" => vec![0, 2],
        "RotaryEmbedding" => vec![0, 1, 2],
        "Attention" => vec![0, 1, 2, 3, 4, 5],
        _ => (0..node.inputs().len()).collect(),
    }
}

fn is_float(to: i64) -> bool {
    i32::try_from(to).is_ok_and(|to| crate::graph::DType(to).is_float())
}
