//! What the parts of a decoder are made of: weights, linear maps, norms, activations.

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::{Activation, Maker, Norm, Run};
use crate::graph::{Attr, Initializer};

impl Maker<'_> {
    pub(super) fn op(&mut self, op: &str, inputs: &[&str]) -> String {
        self.patch.op(op, inputs, &[]).unwrap()
    }

    pub(super) fn with(&mut self, op: &str, inputs: &[&str], attributes: &[(&str, Attr)]) -> String {
        self.patch.op(op, inputs, attributes).unwrap()
    }

    pub(super) fn turn(&mut self, x: &str, perm: &[i64]) -> String {
        self.with("Transpose", &[x], &[("perm", Attr::Ints(perm.to_vec()))])
    }

    pub(super) fn view(&mut self, x: &str, dims: &[i64]) -> String {
        let dims = self.patch.i64(&[dims.len()], dims);
        self.op("Reshape", &[x, &dims])
    }

    /// x[.., from..to..step] along the last axis.
    pub(super) fn cut(&mut self, x: &str, from: usize, to: i64, step: i64) -> String {
        let [from, to, axis, step] = [from as i64, to, -1, step].map(|n| self.patch.i64(&[1], &[n]));
        self.op("Slice", &[x, &from, &to, &axis, &step])
    }

    pub(super) fn number(&mut self, value: f32) -> String {
        self.patch.f32(&[], &[value])
    }

    /// A weight's initializer, about `around`, give or take `spread`.
    pub(super) fn tensor(&mut self, dims: &[usize], around: f32, spread: f32) -> String {
        let values = self.dice.values(dims.iter().product(), around, spread);
        let name = self.patch.fresh("w");
        self.patch.constant(Initializer::f32(&name, dims, &values))
    }

    /// y, and the initializers of matrix and bias.
    pub(super) fn linear(&mut self, x: &str, from: usize, to: usize) -> (String, [Option<String>; 2]) {
        let spread = 1.2 / (from as f32).sqrt();
        let (matrix, operand) = if self.style.transposed {
            let stored = self.tensor(&[to, from], 0.0, spread);
            let turned = self.turn(&stored, &[1, 0]);
            (stored, turned)
        } else {
            let stored = self.tensor(&[from, to], 0.0, spread);
            (stored.clone(), stored)
        };
        let y = self.op("MatMul", &[x, &operand]);
        if !self.style.biased {
            return (y, [Some(matrix), None]);
        }
        let bias = self.tensor(&[to], 0.0, 0.2);
        (self.op("Add", &[&bias, &y]), [Some(matrix), Some(bias)])
    }

    /// Which weights of a block the initializers of a linear map hold.
    pub(super) fn note(&mut self, layer: usize, roles: [Role; 2], stored: &[Option<String>; 2], run: Option<Run>) {
        for (role, name) in roles.into_iter().zip(stored) {
            if let Some(name) = name {
                self.weights.insert(WeightRef::Block(layer, role), (name.clone(), run));
            }
        }
    }

    pub(super) fn site(&mut self, layer: usize, site: BlockSite, edge: &str) {
        self.sites.insert(Site::Block(layer, site), edge.to_owned());
    }

    /// x normalised over its last axis, with a shift where its kind has one and it has a name.
    pub(super) fn norm(&mut self, x: &str, width: usize, scale: WeightRef, shift: Option<WeightRef>) -> String {
        let style = self.style;
        let stored = self.tensor(&[width], if style.from_one { 0.0 } else { 1.0 }, 0.3);
        self.weights.insert(scale, (stored.clone(), None));
        let (one, epsilon) = (self.number(1.0), self.number(1e-5));
        let scale = if style.from_one { self.op("Add", &[&one, &stored]) } else { stored };
        let shift =
            shift.filter(|_| matches!(style.norm, Norm::Layer | Norm::LayerParts) && style.biased).map(|name| {
                let stored = self.tensor(&[width], 0.0, 0.2);
                self.weights.insert(name, (stored.clone(), None));
                stored
            });
        let attributes = [("axis", Attr::Int(-1)), ("epsilon", Attr::Float(1e-5))];
        match (style.norm, &shift) {
            (Norm::Layer, Some(shift)) => return self.with("LayerNormalization", &[x, &scale, shift], &attributes),
            (Norm::Layer, None) => return self.with("LayerNormalization", &[x, &scale], &attributes),
            (Norm::Rms, _) => return self.with("RMSNormalization", &[x, &scale], &attributes),
            _ => {}
        }
        let last = self.patch.i64(&[1], &[-1]);
        let mut x = x.to_owned();
        if style.norm == Norm::LayerParts {
            let mean = self.op("ReduceMean", &[&x, &last]);
            x = self.op("Sub", &[&x, &mean]);
        }
        let square = self.op("Mul", &[&x, &x]);
        let mean = self.op("ReduceMean", &[&square, &last]);
        let sum = self.op("Add", &[&epsilon, &mean]);
        let plain = match style.norm {
            Norm::LayerParts => {
                let root = self.op("Sqrt", &[&sum]);
                self.op("Div", &[&x, &root])
            }
            Norm::RmsPower => {
                let half = self.number(-0.5);
                let inverse = self.op("Pow", &[&sum, &half]);
                self.op("Mul", &[&inverse, &x])
            }
            _ => {
                let root = self.op("Sqrt", &[&sum]);
                let inverse = self.op("Div", &[&one, &root]);
                self.op("Mul", &[&x, &inverse])
            }
        };
        let scaled = self.op("Mul", &[&scale, &plain]);
        match shift {
            Some(shift) => self.op("Add", &[&scaled, &shift]),
            None => scaled,
        }
    }

    pub(super) fn cap(&mut self, x: &str, cap: f32) -> String {
        let cap = self.number(cap);
        let part = self.op("Div", &[x, &cap]);
        let bent = self.op("Tanh", &[&part]);
        self.op("Mul", &[&cap, &bent])
    }

    pub(super) fn activate(&mut self, x: &str) -> String {
        match self.style.activation {
            Activation::Missing => x.to_owned(),
            Activation::Relu => self.op("Relu", &[x]),
            Activation::Squared => {
                let bent = self.op("Relu", &[x]);
                self.op("Mul", &[&bent, &bent])
            }
            Activation::Gelu => {
                let form = if self.style.fused { "tanh" } else { "none" };
                self.with("Gelu", &[x], &[("approximate", Attr::Str(form.into()))])
            }
            Activation::GeluParts => {
                let [root, one, half] = [std::f32::consts::SQRT_2, 1.0, 0.5].map(|v| self.number(v));
                let part = self.op("Div", &[x, &root]);
                let erf = self.op("Erf", &[&part]);
                let gate = self.op("Add", &[&erf, &one]);
                let product = self.op("Mul", &[x, &gate]);
                self.op("Mul", &[&product, &half])
            }
            Activation::TanhParts => {
                let [three, a, root, one, half] = [3.0, 0.044715, 0.797_884_6, 1.0, 0.5].map(|v| self.number(v));
                let cube = self.op("Pow", &[x, &three]);
                let part = self.op("Mul", &[&cube, &a]);
                let sum = self.op("Add", &[x, &part]);
                let inner = self.op("Mul", &[&sum, &root]);
                let tanh = self.op("Tanh", &[&inner]);
                let gate = self.op("Add", &[&tanh, &one]);
                let left = self.op("Mul", &[x, &half]);
                self.op("Mul", &[&left, &gate])
            }
            Activation::Silu => {
                let gate = self.op("Sigmoid", &[x]);
                self.op("Mul", &[&gate, x])
            }
            Activation::Quick => {
                let factor = self.number(1.702);
                let part = self.op("Mul", &[x, &factor]);
                let gate = self.op("Sigmoid", &[&part]);
                self.op("Mul", &[x, &gate])
            }
        }
    }
}
