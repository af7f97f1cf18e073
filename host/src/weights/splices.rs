//! Splices of several patches as data: those that are one graph have their tables folded, in the order of the sources.

use engraft_plugin_api::{Change, Data, Fold, Increment, MethodError, Site, Splice, Tensor};

use crate::base::{Hash, Hasher};

/// What tells splices apart that are not folded into one; ordered as they run at one site.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpliceKey {
    /// The site that is written.
    pub writes: Site,
    /// The place among the splices of that site.
    pub order: i32,
    /// The hash of everything but how many entries its stacked tables have and what its tables hold.
    pub id: Hash,
}

/// The splices of all sources that are one.
#[derive(Clone, Debug, PartialEq)]
pub struct Folded {
    /// The first of them, with its own tables.
    pub first: Splice,
    /// Its tables, folded.
    pub tables: Vec<Table>,
    /// The changes that they come from, as in [`Factors`](super::Factors).
    pub owners: Vec<(usize, usize)>,
}

/// A tensor that is a fold of parts.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The extents.
    pub shape: Vec<usize>,
    /// The values.
    pub values: Values,
    /// Which change each entry along the first axis comes from; empty for sums.
    pub owners: Vec<(usize, usize)>,
}

/// Values of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Floats.
    F32(Vec<f32>),
    /// Integers.
    I64(Vec<i64>),
}

impl Values {
    /// As many zeros.
    fn zeros(&self) -> Self {
        match self {
            Self::F32(values) => Self::F32(vec![0.0; values.len()]),
            Self::I64(values) => Self::I64(vec![0; values.len()]),
        }
    }
}

impl Table {
    /// A table of one part.
    pub fn of(part: &Increment, owner: (usize, usize)) -> Self {
        let values = match part.value.data() {
            Data::F32(values) => Values::F32(values.to_vec()),
            Data::I64(values) => Values::I64(values.clone()),
        };
        let mut table = Self { shape: part.value.shape().to_vec(), values, owners: Vec::new() };
        table.own(part, owner);
        table
    }

    fn own(&mut self, part: &Increment, owner: (usize, usize)) {
        if part.fold == Fold::Stack {
            self.owners.extend(std::iter::repeat_n(owner, part.value.shape().first().copied().unwrap_or(0)));
        }
    }

    /// Folds a part in that [`fits`] the others. Integers are added as the machine does, around the end of their range.
    pub fn add(&mut self, part: &Increment, owner: (usize, usize)) {
        match (&mut self.values, part.value.data(), part.fold) {
            (Values::F32(all), Data::F32(own), Fold::Stack) => all.extend_from_slice(own),
            (Values::I64(all), Data::I64(own), Fold::Stack) => all.extend_from_slice(own),
            (Values::F32(all), Data::F32(own), Fold::Sum) => all.iter_mut().zip(own.iter()).for_each(|(a, o)| *a += o),
            (Values::I64(all), Data::I64(own), Fold::Sum) => {
                all.iter_mut().zip(own).for_each(|(a, o)| *a = a.wrapping_add(*o));
            }
            _ => return,
        }
        if part.fold == Fold::Stack
            && let (Some(all), Some(own)) = (self.shape.first_mut(), part.value.shape().first())
        {
            *all += own;
        }
        self.own(part, owner);
    }

    /// As a tensor.
    ///
    /// # Errors
    /// `tensor-shape` if parts were folded that do not fit.
    pub fn tensor(&self) -> Result<Tensor, MethodError> {
        match &self.values {
            Values::F32(values) => Tensor::f32(self.shape.clone(), values.clone()),
            Values::I64(values) => Tensor::i64(self.shape.clone(), values.clone()),
        }
    }
}

/// Why two parts of one name cannot be folded, if they cannot.
pub fn fits(a: &Increment, b: &Increment) -> std::result::Result<(), String> {
    let words = |part: &Increment| {
        let kind = if part.value.as_f32().is_ok() { "floats" } else { "integers" };
        let fold = if part.fold == Fold::Sum { "sum" } else { "stack" };
        format!("a {fold} of {kind} {:?}", part.value.shape())
    };
    let same = a.fold == b.fold && a.value.as_f32().is_ok() == b.value.as_f32().is_ok() && kept(a) == kept(b);
    if same { Ok(()) } else { Err(format!("a part of `{}` is {}, another is {}", a.name, words(a), words(b))) }
}

/// The rank and the extents that parts have in common.
fn kept(part: &Increment) -> (usize, &[usize]) {
    let shape = part.value.shape();
    (shape.len(), if part.fold == Fold::Stack { shape.get(1..).unwrap_or_default() } else { shape })
}

impl Folded {
    /// The key of a splice.
    pub fn key(splice: &Splice) -> SpliceKey {
        let mut hasher = Hasher::new();
        hasher.part(&splice.graph).part(format!("{:?} {}", splice.reads, splice.whole_rows));
        hasher.part(format!("{} {}", splice.writes, splice.order));
        for table in &splice.tables {
            let floats = table.value.as_f32().is_ok();
            hasher.part(&table.name).part(format!("{:?} {floats} {:?}", table.fold, kept(table)));
        }
        SpliceKey { writes: splice.writes, order: splice.order, id: hasher.finish() }
    }

    /// Of one splice.
    pub fn of(splice: &Splice, owner: (usize, usize)) -> Self {
        let tables = splice.tables.iter().map(|part| Table::of(part, owner)).collect();
        Self { first: splice.clone(), tables, owners: vec![owner] }
    }

    pub(super) fn add(&mut self, splice: &Splice, owner: (usize, usize)) {
        for (table, part) in self.tables.iter_mut().zip(&splice.tables) {
            table.add(part, owner);
        }
        self.owners.push(owner);
    }

    /// The tables that are sums, by their numbers, over some changes alone: zeros where none of them has a part.
    pub fn sums_of<'a>(&self, changes: impl IntoIterator<Item = &'a Change>) -> Vec<(usize, Table)> {
        let sums = self.first.tables.iter().enumerate().filter(|(_, table)| table.fold == Fold::Sum);
        let empty =
            |table: &Table| Table { values: table.values.zeros(), shape: table.shape.clone(), owners: Vec::new() };
        let mut sums: Vec<(usize, Table)> = sums.map(|(i, _)| (i, empty(&self.tables[i]))).collect();
        for change in changes {
            let Change::Splice(splice) = change else { continue };
            if self.first.joins(splice) {
                sums.iter_mut().for_each(|(i, table)| table.add(&splice.tables[*i], (0, 0)));
            }
        }
        sums
    }

    /// What the tables hold.
    pub(super) fn hash(&self, hasher: &mut Hasher) {
        for table in &self.tables {
            hasher.part(format!("{:?}", table.shape)).part(match &table.values {
                Values::F32(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>(),
                Values::I64(values) => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            });
        }
    }
}

/// The parts of changes that are folded by their names: those of statistics, and the tables of splices.
pub fn increments(changes: &[Change]) -> impl Iterator<Item = &Increment> {
    changes.iter().flat_map(|change| match change {
        Change::Statistic(part) => std::slice::from_ref(part),
        Change::Splice(splice) => &splice.tables[..],
        _ => &[],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(fold: Fold, value: Tensor) -> Increment {
        Increment { name: "t".into(), fold, value }
    }

    #[test]
    fn parts_are_folded_in_order_and_only_where_they_fit() {
        let t = |n: usize, first: f32| {
            Tensor::f32([n, 2], (0..2 * n).map(|i| first + i as f32).collect::<Vec<_>>()).unwrap()
        };
        let mut table = Table::of(&part(Fold::Stack, t(1, 0.0)), (0, 0));
        table.add(&part(Fold::Stack, t(2, 10.0)), (3, 1));
        assert_eq!(table.tensor().unwrap(), Tensor::f32([3, 2], vec![0.0, 1.0, 10.0, 11.0, 12.0, 13.0]).unwrap());
        assert_eq!(table.owners, [(0, 0), (3, 1), (3, 1)]);
        let ints = |v: i64| part(Fold::Sum, Tensor::i64([2], vec![v, i64::MAX]).unwrap());
        let mut sum = Table::of(&ints(1), (0, 0));
        sum.add(&ints(4), (1, 0));
        assert_eq!((sum.tensor().unwrap().as_i64().unwrap(), sum.owners.len()), (&[5, -2][..], 0));
        let stack = part(Fold::Stack, t(1, 0.0));
        assert!(fits(&stack, &part(Fold::Stack, t(5, 0.0))).is_ok());
        for other in [
            part(Fold::Sum, t(1, 0.0)),
            part(Fold::Stack, Tensor::zeros([1, 3])),
            part(Fold::Stack, Tensor::zeros([2])),
            part(Fold::Stack, Tensor::i64([1, 2], vec![0, 0]).unwrap()),
        ] {
            assert!(fits(&stack, &other).unwrap_err().contains("`t`"));
        }
        assert!(fits(&part(Fold::Sum, t(1, 0.0)), &part(Fold::Sum, t(2, 0.0))).is_err());
    }
}
