//! What patches and artefacts hold, as bytes: a version, then numbers and texts with their lengths, little-endian.

use engraft_plugin_api::MethodError;

/// The version of the spelling.
const VERSION: u8 = 1;

/// A fact that requests are shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Fact {
    /// The statement.
    pub said: String,
    /// The demonstrations that are shown before it.
    pub shown: Vec<String>,
    /// The unit vector that finds it by its subject.
    pub key: Vec<f32>,
    /// The vector that a learned scope judges it by; empty without one.
    pub scope: Vec<f32>,
}

/// A prompt with its answer.
type Pair = (String, String);

/// A fact of the training data, as demonstrations use it.
#[derive(Clone, Debug, PartialEq)]
pub struct Lesson {
    /// The prompt of the edit, and what it asks for.
    pub copy: Pair,
    /// Other words for it, with the same answer.
    pub update: Option<Pair>,
    /// Another fact, with the answer that it keeps.
    pub retain: Option<Pair>,
    /// The unit vector that finds it.
    pub key: Vec<f32>,
}

/// What was learnt.
#[derive(Clone, Debug, PartialEq)]
pub struct Memory {
    /// The block after which facts were compared.
    pub layer: usize,
    /// The bytes of the scope that was learnt; empty where none was.
    pub scope: Vec<u8>,
    /// The training facts.
    pub lessons: Vec<Lesson>,
}

impl Fact {
    /// Facts as bytes.
    pub fn write(facts: &[Self]) -> Vec<u8> {
        let mut out = Writer::new();
        out.count(facts.len());
        for Self { said, shown, key, scope } in facts {
            out.text(said);
            out.count(shown.len());
            shown.iter().for_each(|text| out.text(text));
            out.floats(key);
            out.floats(scope);
        }
        out.0
    }

    /// # Errors
    /// `ike-state` if the bytes are not facts.
    pub fn read(bytes: &[u8]) -> Result<Vec<Self>, MethodError> {
        let read = |from: &mut Reader<'_>| {
            let n = from.count()?;
            (0..n)
                .map(|_| {
                    let said = from.text()?;
                    let shown = (0..from.count()?).map(|_| from.text()).collect::<Option<_>>()?;
                    Some(Self { said, shown, key: from.floats()?, scope: from.floats()? })
                })
                .collect()
        };
        Reader::whole(bytes, read).ok_or_else(|| MethodError::new("ike-state", "the state of a patch is not IKE's"))
    }
}

impl Memory {
    /// As bytes.
    pub fn write(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.count(self.layer);
        out.bytes(&self.scope);
        out.count(self.lessons.len());
        for Lesson { copy, update, retain, key } in &self.lessons {
            for pair in [Some(copy), update.as_ref(), retain.as_ref()] {
                out.count(usize::from(pair.is_some()));
                pair.into_iter().for_each(|(prompt, answer)| {
                    out.text(prompt);
                    out.text(answer);
                });
            }
            out.floats(key);
        }
        out.0
    }

    /// # Errors
    /// `ike-artefact` if the bytes are not what training leaves.
    pub fn read(bytes: &[u8]) -> Result<Self, MethodError> {
        let pair = |from: &mut Reader<'_>| match from.count()? {
            0 => Some(None),
            1 => Some(Some((from.text()?, from.text()?))),
            _ => None,
        };
        let read = |from: &mut Reader<'_>| {
            let layer = from.count()?;
            let scope = from.bytes()?.to_vec();
            let n = from.count()?;
            let lesson = |from: &mut Reader<'_>| {
                let (copy, update, retain) = (pair(from)??, pair(from)?, pair(from)?);
                Some(Lesson { copy, update, retain, key: from.floats()? })
            };
            let lessons = (0..n).map(|_| lesson(from)).collect::<Option<_>>()?;
            Some(Self { layer, scope, lessons })
        };
        Reader::whole(bytes, read)
            .ok_or_else(|| MethodError::new("ike-artefact", "the artefact is damaged, or not IKE's"))
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn new() -> Self {
        Self(vec![VERSION])
    }

    fn count(&mut self, n: usize) {
        self.0.extend((n as u64).to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn floats(&mut self, values: &[f32]) {
        self.count(values.len());
        values.iter().for_each(|v| self.0.extend(v.to_le_bytes()));
    }
}

struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    /// Reads all bytes, behind the version.
    fn whole<T>(bytes: &'b [u8], read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        let mut reader = Self(bytes.strip_prefix(&[VERSION])?);
        read(&mut reader).filter(|_| reader.0.is_empty())
    }

    fn take(&mut self, n: usize) -> Option<&'b [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.take(8)?.try_into().ok()?)).ok()
    }

    fn bytes(&mut self) -> Option<&'b [u8]> {
        let n = self.count()?;
        self.take(n)
    }

    fn text(&mut self) -> Option<String> {
        String::from_utf8(self.bytes()?.to_vec()).ok()
    }

    fn floats(&mut self) -> Option<Vec<f32>> {
        let n = self.count()?.checked_mul(4)?;
        Some(self.take(n)?.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_noticed() {
        let facts = vec![
            Fact {
                said: "A is B".into(),
                shown: vec!["é".into(), String::new()],
                key: vec![0.5, -1.0],
                scope: vec![2.0],
            },
            Fact { said: String::new(), shown: vec![], key: vec![], scope: vec![] },
        ];
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let lesson = Lesson { copy: pair("p", "a"), update: None, retain: Some(pair("q", "b")), key: vec![1.0] };
        let memory = Memory { layer: 3, scope: vec![0, 255], lessons: vec![lesson.clone(), lesson] };
        let (state, learnt) = (Fact::write(&facts), memory.write());
        assert_eq!((Fact::read(&state), Memory::read(&learnt)), (Ok(facts), Ok(memory)));
        for n in 0..state.len() {
            assert!(Fact::read(&state[..n]).is_err());
        }
        for n in 0..learnt.len() {
            assert!(Memory::read(&learnt[..n]).is_err());
        }
        assert!(Fact::read(&[&state[..], &[0]].concat()).is_err());
        let huge = [&[VERSION][..], &u64::MAX.to_le_bytes()].concat();
        assert!(Fact::read(&huge).is_err() && Memory::read(&huge).is_err());
    }
}
