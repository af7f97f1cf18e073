//! An anatomy while it is being found: what the detectors report goes through here.

use std::fmt::Display;

use engraft_plugin_api::{BlockSite, Role, Site, WeightRef};

use super::look::view::Stored;
use super::parts::{Anatomy, Axes, NormFacts, SiteEdge, Storage, WeightEdge};
use super::pieces::linear::{Projection, place};
use super::pieces::norms::Norm;
use crate::base::Error;

/// What was found so far, and what keeps it from being a whole decoder.
#[derive(Default)]
pub(super) struct Draft {
    pub anatomy: Anatomy,
    pub problems: Vec<Error>,
}

impl Draft {
    pub fn site(&mut self, site: Site, edge: &str, evidence: impl Into<String>) {
        self.site_in(site, edge, Axes::Named, evidence);
    }

    pub fn site_in(&mut self, site: Site, edge: &str, axes: Axes, evidence: impl Into<String>) {
        self.anatomy.sites.insert(site, SiteEdge { edge: edge.to_owned(), axes, evidence: evidence.into() });
    }

    /// True if a site was found at an edge.
    pub fn is_site(&self, site: Site, edge: &str) -> bool {
        self.anatomy.sites.get(&site).is_some_and(|found| found.edge == edge)
    }

    pub fn weight(&mut self, weight: WeightRef, edge: WeightEdge) {
        self.anatomy.weights.insert(weight, edge);
    }

    pub fn absent(&mut self, name: impl Display, reason: impl Into<String>) {
        self.anatomy.absent.entry(name.to_string()).or_insert_with(|| reason.into());
    }

    /// Notes the same reason for several sites of a block.
    pub fn absent_sites(&mut self, layer: usize, sites: &[BlockSite], reason: &str) {
        for &site in sites {
            self.absent(Site::Block(layer, site), reason);
        }
    }

    /// Notes the same reason for several weights of a block.
    pub fn absent_weights(&mut self, layer: usize, roles: &[Role], reason: &str) {
        for &role in roles {
            self.absent(WeightRef::Block(layer, role), reason);
        }
    }

    /// The weight and bias of a linear map, or of a part of its outputs.
    pub fn linear(&mut self, projection: &Projection<'_, '_>, weight: WeightRef, bias: WeightRef, input: &str) {
        let (linear, columns) = (projection.linear, projection.columns);
        let part = columns.map_or(String::new(), |c| format!("outputs {c} of "));
        let flat = linear.flat && !linear.merged[0] && input == linear.operand;
        let flat = flat.then(|| "no edge holds its inputs as [batch, pos, in]".to_owned());
        if let Some(obstacle) = linear.obstacle.as_ref().or(flat.as_ref()) {
            self.absent(weight, obstacle);
            self.absent(bias, obstacle);
            return;
        }
        let turned = if linear.weight.transposed { ", transposed" } else { "" };
        self.weight(weight, linear.weight(columns, input, format!("{part}the matrix of a {}{turned}", linear.op)));
        let how = if linear.op == "Gemm" { "Gemm" } else { "MatMul and Add" };
        let part = if projection.bias.is_some() { "" } else { part.as_str() };
        match projection.bias(format!("{part}the vector that the {how} adds")) {
            Some(edge) => self.weight(bias, edge),
            None => self.absent(bias, format!("its {} adds no vector", linear.op)),
        }
    }

    /// The parameters of a norm, and how it is computed.
    pub fn norm(&mut self, norm: &Norm<'_>, site: Site, scale: WeightRef, shift: WeightRef) {
        self.scale(norm, scale);
        match &norm.shift {
            Some(stored) => self.vector(norm, stored, "shift", shift),
            None => self.absent(shift, "the norm has no shift in the file"),
        }
        self.anatomy.epsilon = self.anatomy.epsilon.or(Some(norm.epsilon));
        let Norm { centred, epsilon, offset, .. } = *norm;
        self.anatomy.norms.insert(site, NormFacts { centred, epsilon, offset });
    }

    /// The scale of a norm.
    pub fn scale(&mut self, norm: &Norm<'_>, weight: WeightRef) {
        match &norm.scale {
            Some(stored) => self.vector(norm, stored, "scale", weight),
            None => self.absent(weight, "the norm has no scale in the file"),
        }
    }

    fn vector(&mut self, norm: &Norm<'_>, stored: &Stored<'_>, word: &str, weight: WeightRef) {
        let shape = [1, stored.initializer.len()];
        let mut evidence = format!("the {word} of {}", norm.words());
        if word == "scale" && norm.offset != 0.0 {
            evidence = format!("{evidence}; the graph multiplies with {} + the stored value", norm.offset);
        }
        self.weight(weight, place(stored, Storage::Vector, shape, evidence));
    }
}
