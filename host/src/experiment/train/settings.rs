//! The `[train]` table of an experiment, resolved. Files are looked for when a training begins: a run needs the
//! artefact alone.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::super::config::{self, Spanned};
use super::super::settings::{DataSettings, absolute, tidy};
use super::super::{Source, codes};
use crate::base::{Error, Result};
use crate::data::DataKind;

/// What methods learn from, and where that is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainSettings {
    /// The records; `None` where texts are all there is.
    pub data: Option<DataSettings>,
    /// What tells when to stop.
    pub validation: Validation,
    /// Plain texts, a document a line.
    pub texts: Option<PathBuf>,
    /// The seed of all random streams of the training.
    pub seed: u64,
    /// Where the folder of the training is made.
    pub out: PathBuf,
    /// Where the paths stand in the experiment, for messages.
    pub place: TrainPlaces,
}

/// Where validation records come from.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Validation {
    /// There are none.
    #[default]
    None,
    /// This share of the subjects, in (0, 1), with all their records.
    Share(f64),
    /// Another file of the same kind.
    File(PathBuf),
}

/// Where the paths of a `[train]` table stand in the experiment, in words. All places are equal: they are no setting.
#[derive(Clone, Debug, Default)]
pub struct TrainPlaces {
    /// Of `path`.
    pub path: String,
    /// Of `validation`.
    pub validation: String,
    /// Of `texts`.
    pub texts: String,
}

impl PartialEq for TrainPlaces {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl TrainSettings {
    /// Resolves the table; `kind`, `seed` and `out` are those of the experiment.
    ///
    /// # Errors
    /// `config-value`, `data-kind`
    pub(in crate::experiment) fn resolve(
        source: &Source,
        base: &Path,
        typed: &Spanned<config::Train>,
        (kind, seed, out): (DataKind, u64, &Path),
    ) -> Result<Self> {
        let (span, typed) = (typed.span(), typed.get_ref());
        let wrong = |span: &Range<usize>, why: String| {
            Error::new(&codes::CONFIG_VALUE, format!("{}: {why}", source.place(span)))
        };
        if typed.path.is_none() && typed.texts.is_none() {
            return Err(wrong(&span, "[train] names nothing to learn from: give it a `path`, or `texts`".into()));
        }
        let given = typed.path.as_ref().map(Spanned::span);
        for (key, at) in [
            ("kind", typed.kind.as_ref().map(Spanned::span)),
            ("limit", typed.limit.as_ref().map(Spanned::span)),
            ("validation", typed.validation.as_ref().map(Spanned::span)),
        ] {
            if let (None, Some(at)) = (&given, at) {
                return Err(wrong(&at, format!("`{key}` is of no use without a `path`")));
            }
        }
        let kind = match &typed.kind {
            Some(kind) => DataKind::named(kind.get_ref()).map_err(|e| {
                let error = Error::new(e.code(), format!("{}: {e}", source.place(&kind.span())));
                error.help(e.advice().unwrap_or_default())
            })?,
            None => kind,
        };
        let file = |path: &str| tidy(&base.join(path));
        let place = |span: Option<Range<usize>>| span.map(|span| source.place(&span)).unwrap_or_default();
        let validation = match typed.validation.as_ref().map(|v| (v.span(), v.get_ref())) {
            None => Validation::None,
            Some((_, toml::Value::String(path))) => Validation::File(file(path)),
            Some((_, toml::Value::Float(share))) if *share > 0.0 && *share < 1.0 => Validation::Share(*share),
            Some((span, other)) => {
                let why = format!("`validation` takes a share between 0 and 1, or the path of a file, found {other}");
                return Err(wrong(&span, why));
            }
        };
        Ok(Self {
            data: typed.path.as_ref().map(|path| DataSettings {
                kind,
                path: file(path.get_ref()),
                limit: typed.limit.as_ref().map(|limit| usize::from(*limit.get_ref())),
            }),
            validation,
            texts: typed.texts.as_ref().map(|path| file(path.get_ref())),
            seed: typed.seed.unwrap_or(seed),
            out: typed.out.as_deref().map_or_else(|| out.to_owned(), |out| tidy(&absolute(Path::new(out)))),
            place: TrainPlaces {
                path: place(given),
                validation: place(typed.validation.as_ref().map(Spanned::span)),
                texts: place(typed.texts.as_ref().map(Spanned::span)),
            },
        })
    }

    /// The files, each with the key that names it and its place.
    fn files(&self) -> Vec<(&'static str, &Path, &str)> {
        let mut files = Vec::new();
        files.extend(self.data.as_ref().map(|data| ("train.path", data.path.as_path(), self.place.path.as_str())));
        if let Validation::File(path) = &self.validation {
            files.push(("train.validation", path, &self.place.validation));
        }
        files.extend(self.texts.as_deref().map(|path| ("train.texts", path, self.place.texts.as_str())));
        files
    }

    /// That every file is there.
    ///
    /// # Errors
    /// `config-path`
    pub(super) fn check_files(&self) -> Result<()> {
        match self.files().into_iter().find(|(_, path, _)| !path.is_file()) {
            None => Ok(()),
            Some((key, path, place)) => {
                let message = format!("{place}: `{key}` names `{}`, which is no file", path.display());
                Err(Error::new(&codes::CONFIG_PATH, message)
                    .help("paths are relative to the experiment file, not to the working directory"))
            }
        }
    }

    /// True if every file is there.
    pub(in crate::experiment) fn is_there(&self) -> bool {
        self.check_files().is_ok()
    }
}
