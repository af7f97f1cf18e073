//! Gradients on the way back, and the nodes that are added for them.
//!
//! A gradient is kept cheap for as long as it can be: a constant factor, a broadcast and a change of shape are only
//! remembered, until an operator needs them done. Equal nodes are added once.

use std::collections::{HashMap, HashSet};

use half::{bf16, f16};

use super::facts::Facts;
use crate::base::Result;
use crate::graph::{Attr, DType, Dim, Initializer, Patch};

/// How the edge of a gradient relates to the shape of the edge whose gradient it is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// It has that shape.
    Full,
    /// It broadcasts to that shape.
    Thin,
    /// It has the same elements in the same order under another shape, which may be known.
    Flat(Option<Vec<Dim>>),
}

/// The gradient of an edge: `scale` times an edge of the patch.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Grad {
    pub(super) edge: String,
    pub(super) scale: f32,
    pub(super) form: Form,
}

impl Grad {
    pub(super) fn full(edge: &str) -> Self {
        Self { edge: edge.to_owned(), scale: 1.0, form: Form::Full }
    }

    #[must_use]
    pub(super) fn scaled(mut self, factor: f32) -> Self {
        self.scale *= factor;
        self
    }

    #[must_use]
    pub(super) fn formed(mut self, form: Form) -> Self {
        self.form = form;
        self
    }
}

/// Tensors of more elements than this are never made of constants alone: a runtime would keep them in memory.
const FOLDED: usize = 1 << 14;

/// What gradients in float16 are multiplied with on the way: a power of two, so that nothing is rounded by it.
const CARRIED: f32 = 256.0;

/// The state of one differentiation.
pub(super) struct Tape<'t, 'g, 's> {
    patch: &'t mut Patch<'g>,
    pub(super) facts: Facts<'g, 's>,
    variables: HashSet<String>,
    made: HashMap<String, Vec<String>>,
    /// The edges that the nodes of this differentiation make.
    edges: HashSet<String>,
    shapes: HashMap<Vec<Dim>, String>,
    /// The transpositions of this differentiation: what was transposed, and the order.
    turned: HashMap<String, (String, Vec<usize>)>,
    contributions: HashMap<String, Vec<Grad>>,
    parts: HashMap<String, Vec<(i64, Grad)>>,
}

impl<'t, 'g, 's> Tape<'t, 'g, 's> {
    pub(super) fn new(patch: &'t mut Patch<'g>, facts: Facts<'g, 's>, wrt: &[&str]) -> Self {
        Self {
            patch,
            facts,
            variables: wrt.iter().map(|&e| e.to_owned()).collect(),
            made: HashMap::new(),
            edges: HashSet::new(),
            shapes: HashMap::new(),
            turned: HashMap::new(),
            contributions: HashMap::new(),
            parts: HashMap::new(),
        }
    }

    pub(super) fn opset(&self) -> i64 {
        self.facts.graph.opset()
    }

    /// True if the edge is a variable: what lies before it must not be read.
    pub(super) fn is_variable(&self, edge: &str) -> bool {
        self.variables.contains(edge)
    }

    /// A cotangent in the element type of the edge that it belongs to. In a narrow type it is carried larger.
    pub(super) fn typed(&mut self, cotangent: &str, of: &str) -> Result<Grad> {
        let to = match self.facts.dtype(of) {
            Some(dtype) if dtype != DType::F32 => dtype,
            _ => return Ok(Grad::full(cotangent)),
        };
        let mut edge = cotangent.to_owned();
        let mut factor = 1.0;
        if to == DType::F16 {
            factor = CARRIED;
            let (wide, by) = (self.cast(&edge, DType::F32)?, self.real_of(DType::F32, factor));
            edge = self.op("Mul", &[&wide, &by], &[])?;
        }
        Ok(Grad::full(&self.cast(&edge, to)?).scaled(factor.recip()))
    }

    /// Adds to the gradient of an edge.
    pub(super) fn contribute(&mut self, edge: &str, grad: Grad) {
        self.contributions.entry(edge.to_owned()).or_default().push(grad);
    }

    /// Adds to the gradient of one tensor of a sequence.
    pub(super) fn contribute_part(&mut self, sequence: &str, at: i64, grad: Grad) {
        self.parts.entry(sequence.to_owned()).or_default().push((at, grad));
    }

    /// The gradients of the tensors of a sequence.
    pub(super) fn take_parts(&mut self, sequence: &str) -> Vec<(i64, Grad)> {
        self.parts.remove(sequence).unwrap_or_default()
    }

    pub(super) fn has_parts(&self, sequence: &str) -> bool {
        self.parts.contains_key(sequence)
    }

    /// The sum of all that was contributed to an edge.
    pub(super) fn total(&mut self, edge: &str) -> Result<Option<Grad>> {
        let Some(terms) = self.contributions.remove(edge) else { return Ok(None) };
        let total = self.sum(terms, edge)?;
        self.contributions.insert(edge.to_owned(), vec![total.clone()]);
        Ok(Some(total))
    }

    /// The gradient of a variable as an edge that a node of the patch makes.
    pub(super) fn result(&mut self, edge: &str) -> Result<Option<String>> {
        let Some(total) = self.total(edge)? else { return Ok(None) };
        let done = self.exact(&total, edge)?;
        Ok(Some(if self.edges.contains(&done) { done } else { self.op("Identity", &[&done], &[])? }))
    }

    /// Σ terms, the gradients of `of`.
    pub(super) fn sum(&mut self, mut terms: Vec<Grad>, of: &str) -> Result<Grad> {
        if terms.len() == 1 {
            return Ok(terms.remove(0));
        }
        let mut all = Vec::with_capacity(terms.len());
        for term in terms {
            all.push(self.spread(&term, of)?);
        }
        // The factor that most of the widest terms have is left to the sum; the others are multiplied out.
        let wide: Vec<&Grad> = all.iter().filter(|g| g.form == Form::Full).collect();
        let voters: Vec<&Grad> = if wide.is_empty() { all.iter().collect() } else { wide };
        let votes = |s: f32| voters.iter().filter(|g| g.scale == s).count();
        let mut scale = voters[0].scale;
        for voter in &voters {
            if votes(voter.scale) > votes(scale) {
                scale = voter.scale;
            }
        }
        if scale == 0.0 || !scale.is_finite() {
            scale = 1.0;
        }
        let form = if all.iter().all(|g| g.form == Form::Thin) { Form::Thin } else { Form::Full };
        let (mut plus, mut minus) = (Vec::new(), Vec::new());
        for term in all {
            match term.scale / scale {
                -1.0 => minus.push(term.edge),
                ratio => plus.push(self.multiplied(&term.edge, ratio, of)?),
            }
        }
        if plus.is_empty() {
            (plus, minus, scale) = (minus, plus, -scale);
        }
        let refs: Vec<&str> = plus.iter().map(String::as_str).collect();
        let mut edge = match refs[..] {
            [one] => one.to_owned(),
            [a, b] => self.op("Add", &[a, b], &[])?,
            _ => self.op("Sum", &refs, &[])?,
        };
        for term in minus {
            edge = self.op("Sub", &[&edge, &term], &[])?;
        }
        Ok(Grad { edge, scale, form })
    }

    /// The gradient in a shape that broadcasts to that of `of`: `Full` or `Thin`.
    pub(super) fn spread(&mut self, grad: &Grad, of: &str) -> Result<Grad> {
        match &grad.form {
            Form::Flat(dims) => {
                let edge = self.reshape(&grad.edge, dims.as_deref(), of)?;
                Ok(Grad { edge, scale: grad.scale, form: Form::Full })
            }
            _ => Ok(grad.clone()),
        }
    }

    /// The gradient in the shape of `of`, its factor left aside.
    pub(super) fn shaped(&mut self, grad: &Grad, of: &str) -> Result<Grad> {
        if grad.form != Form::Thin {
            return self.spread(grad, of);
        }
        let known = self.facts.dims(of).and_then(|dims| dims.iter().map(Dim::known).collect::<Option<Vec<_>>>());
        let target = match known {
            Some(dims) => self.ints(&dims.iter().map(|&d| d as i64).collect::<Vec<_>>()),
            None => self.shape_of(of)?,
        };
        let edge = self.op("Expand", &[&grad.edge, &target], &[])?;
        Ok(Grad { edge, scale: grad.scale, form: Form::Full })
    }

    /// The gradient itself, in the shape of `of`.
    pub(super) fn exact(&mut self, grad: &Grad, of: &str) -> Result<String> {
        // A thin gradient is multiplied before it grows.
        let scaled = Grad { edge: self.multiplied(&grad.edge, grad.scale, of)?, scale: 1.0, form: grad.form.clone() };
        Ok(self.shaped(&scaled, of)?.edge)
    }

    /// The gradient as a matrix `[elements / last extent of `of`, last extent]`, its factor left aside.
    pub(super) fn matrix(&mut self, grad: &Grad, of: &str) -> Result<String> {
        let dims = self.facts.dims(of);
        if let (Form::Flat(Some(now)), Some(dims)) = (&grad.form, &dims)
            && now.last().is_some()
            && now.last() == dims.last()
        {
            return self.flattened(&grad.edge, Some(now.len()));
        }
        let shaped = self.shaped(grad, of)?;
        self.flattened(&shaped.edge, dims.map(|d| d.len()))
    }

    /// An edge as a matrix whose last extent is the edge's.
    pub(super) fn flattened(&mut self, edge: &str, rank: Option<usize>) -> Result<String> {
        if rank == Some(2) {
            return Ok(edge.to_owned());
        }
        self.op("Flatten", &[edge], &[("axis", Attr::Int(-1))])
    }

    /// `factor · edge`.
    pub(super) fn multiplied(&mut self, edge: &str, factor: f32, like: &str) -> Result<String> {
        match factor {
            1.0 => Ok(edge.to_owned()),
            -1.0 => self.op("Neg", &[edge], &[]),
            _ => {
                let factor = self.real(like, factor);
                self.op("Mul", &[edge, &factor], &[])
            }
        }
    }

    /// The same elements in the shape of `of`; `now` is the present shape where it is known.
    fn reshape(&mut self, edge: &str, now: Option<&[Dim]>, of: &str) -> Result<String> {
        let Some(dims) = self.facts.dims(of) else {
            let shape = self.shape_of(of)?;
            return self.reshape_by(edge, &shape);
        };
        let now = now.unwrap_or_default();
        if now == dims && !dims.is_empty() {
            return Ok(edge.to_owned());
        }
        let kept = dims.iter().zip(now).take_while(|(a, b)| a == b).count();
        let mut target = vec![0i64; kept];
        target.extend(dims[kept..].iter().map(|d| d.known().map_or(-1, |n| n as i64)));
        let open = target.iter().filter(|&&d| d == -1).count();
        // A zero stands for "as it is"; beside it, an extent left open could not be told where there is no element.
        if dims[kept..].contains(&Dim::Known(0)) || open > 1 || (open == 1 && kept > 0) {
            let shape = self.shape_of(of)?;
            return self.reshape_by(edge, &shape);
        }
        let target = self.ints(&target);
        self.op("Reshape", &[edge, &target], &[])
    }

    /// A reshape by an edge that holds the extents as they are.
    pub(super) fn reshape_by(&mut self, edge: &str, shape: &str) -> Result<String> {
        let attributes: &[_] = if self.opset() >= 14 { &[("allowzero", Attr::Int(1))] } else { &[] };
        self.op("Reshape", &[edge, shape], attributes)
    }

    /// The shape of an edge of the graph as integers.
    pub(super) fn shape_of(&mut self, of: &str) -> Result<String> {
        let Some(dims) = self.facts.dims(of) else { return self.op("Shape", &[of], &[]) };
        if let Some(found) = self.shapes.get(&dims) {
            return Ok(found.clone());
        }
        let shape = match dims.iter().map(Dim::known).collect::<Option<Vec<_>>>() {
            Some(known) => self.ints(&known.iter().map(|&d| d as i64).collect::<Vec<_>>()),
            None => self.op("Shape", &[of], &[])?,
        };
        self.shapes.insert(dims, shape.clone());
        Ok(shape)
    }

    /// One extent of an edge of the graph, as one integer `[1]`. The axis may count from the end.
    pub(super) fn extent(&mut self, of: &str, axis: i64) -> Result<String> {
        if let Some(known) = self.facts.extent(of, axis) {
            return Ok(self.ints(&[known as i64]));
        }
        let (shape, axis) = (self.shape_of(of)?, self.ints(&[axis]));
        self.op("Gather", &[&shape, &axis], &[])
    }

    /// Zeros in the shape of an edge of the graph. `beside` is an edge that is only known when the graph runs.
    pub(super) fn zeros(&mut self, of: &str, beside: &str) -> Result<String> {
        let shape = self.shape_of(of)?;
        self.zeros_by(&shape, of, beside)
    }

    /// Zeros of the element type of `of` in the shape that an edge holds.
    pub(super) fn zeros_by(&mut self, shape: &str, of: &str, beside: &str) -> Result<String> {
        let dtype = self.facts.dtype(of).unwrap_or(DType::F32);
        self.zeros_of(dtype, shape, of, beside)
    }

    /// Zeros of a type, as many as `of` has elements, in the shape that an edge holds.
    pub(super) fn zeros_of(&mut self, dtype: DType, shape: &str, of: &str, beside: &str) -> Result<String> {
        let count = self.facts.dims(of).and_then(|d| d.iter().map(Dim::known).product::<Option<usize>>());
        let zero = match count {
            Some(n) if n > FOLDED => {
                let (size, nothing) = (self.op("Size", &[beside], &[])?, self.integer(0));
                let product = self.op("Mul", &[&size, &nothing], &[])?;
                self.cast(&product, dtype)?
            }
            _ => self.real_of(dtype, 0.0),
        };
        self.op("Expand", &[&zero, shape], &[])
    }

    /// A cast to a type.
    pub(super) fn cast(&mut self, edge: &str, to: DType) -> Result<String> {
        self.op("Cast", &[edge], &[("to", Attr::Int(i64::from(to.0)))])
    }

    /// A reduction over some axes; `axes` empty stands for all.
    pub(super) fn reduce(&mut self, op: &str, edge: &str, axes: &[i64], keep: bool) -> Result<String> {
        let mut attributes = Vec::new();
        let mut inputs = vec![edge.to_owned()];
        if !axes.is_empty() {
            if op == "ReduceSum" || self.opset() >= 18 {
                inputs.push(self.ints(axes));
            } else {
                attributes.push(("axes", Attr::Ints(axes.to_vec())));
            }
        }
        if !keep {
            attributes.push(("keepdims", Attr::Int(0)));
        }
        self.op(op, &inputs.iter().map(String::as_str).collect::<Vec<_>>(), &attributes)
    }

    /// `op(X) · op(Y) · alpha` of matrices, read transposed where asked.
    pub(super) fn gemm(&mut self, a: (&str, bool), b: (&str, bool), alpha: f32) -> Result<String> {
        let mut attributes = Vec::new();
        for (name, set) in [("transA", a.1), ("transB", b.1)] {
            if set {
                attributes.push((name, Attr::Int(1)));
            }
        }
        if alpha != 1.0 {
            attributes.push(("alpha", Attr::Float(alpha)));
        }
        self.op("Gemm", &[a.0, b.0], &attributes)
    }

    /// A transposition, or the edge itself if the order is the identity. Two in a row are one.
    pub(super) fn transposed(&mut self, edge: &str, perm: &[usize]) -> Result<String> {
        if perm.iter().enumerate().all(|(i, &p)| i == p) {
            return Ok(edge.to_owned());
        }
        if let Some((source, before)) = self.turned.get(edge).cloned() {
            let both: Vec<usize> = perm.iter().map(|&p| before[p]).collect();
            return self.transposed(&source, &both);
        }
        let made = self.op("Transpose", &[edge], &[("perm", Attr::Ints(perm.iter().map(|&p| p as i64).collect()))])?;
        self.turned.insert(made.clone(), (edge.to_owned(), perm.to_vec()));
        Ok(made)
    }

    /// A node with one output.
    pub(super) fn op(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attr)]) -> Result<String> {
        self.op_many(op, inputs, attributes, 1).map(|mut outputs| outputs.remove(0))
    }

    /// A node; an equal one that was added before serves again.
    pub(super) fn op_many(
        &mut self,
        op: &str,
        inputs: &[&str],
        attributes: &[(&str, Attr)],
        outputs: usize,
    ) -> Result<Vec<String>> {
        let key = format!("{op} {inputs:?} {attributes:?} {outputs}");
        if let Some(made) = self.made.get(&key) {
            return Ok(made.clone());
        }
        let made = self.patch.op_many(op, inputs, attributes, outputs)?;
        self.edges.extend(made.iter().cloned());
        self.made.insert(key, made.clone());
        Ok(made)
    }

    /// A vector of integers.
    pub(super) fn ints(&mut self, values: &[i64]) -> String {
        let key = format!("ints {values:?}");
        if let Some(made) = self.made.get(&key) {
            return made[0].clone();
        }
        let name = self.patch.i64(&[values.len()], values);
        self.made.insert(key, vec![name.clone()]);
        name
    }

    /// One integer without axes.
    pub(super) fn integer(&mut self, value: i64) -> String {
        let key = format!("integer {value}");
        if let Some(made) = self.made.get(&key) {
            return made[0].clone();
        }
        let name = self.patch.i64(&[], &[value]);
        self.made.insert(key, vec![name.clone()]);
        name
    }

    /// A scalar of the element type of an edge of the graph.
    pub(super) fn real(&mut self, like: &str, value: f32) -> String {
        self.reals(like, &[], value)
    }

    /// A tensor of the element type of an edge of the graph that holds one value everywhere.
    pub(super) fn reals(&mut self, like: &str, dims: &[usize], value: f32) -> String {
        let dtype = self.facts.dtype(like).unwrap_or(DType::F32);
        self.filled(dtype, dims, value)
    }

    /// A scalar of a floating-point type.
    pub(super) fn real_of(&mut self, dtype: DType, value: f32) -> String {
        self.filled(dtype, &[], value)
    }

    /// The truth value "false".
    pub(super) fn falsehood(&mut self) -> String {
        let key = "falsehood".to_owned();
        if let Some(made) = self.made.get(&key) {
            return made[0].clone();
        }
        let name = self.patch.fresh("engraft.const");
        let name = self.patch.constant(Initializer::inline(&name, DType::BOOL, &[], vec![0]));
        self.made.insert(key, vec![name.clone()]);
        name
    }

    fn filled(&mut self, dtype: DType, dims: &[usize], value: f32) -> String {
        let key = format!("real {dtype:?} {dims:?} {:x}", value.to_bits());
        if let Some(made) = self.made.get(&key) {
            return made[0].clone();
        }
        let one = match dtype {
            DType::F16 => f16::from_f32(value).to_le_bytes().to_vec(),
            DType::BF16 => bf16::from_f32(value).to_le_bytes().to_vec(),
            DType::F64 => f64::from(value).to_le_bytes().to_vec(),
            _ => value.to_le_bytes().to_vec(),
        };
        let name = self.patch.fresh("engraft.const");
        let bytes = one.repeat(dims.iter().product());
        let name = self.patch.constant(Initializer::inline(&name, dtype, dims, bytes));
        self.made.insert(key, vec![name.clone()]);
        name
    }
}
