//! Problems: what is wrong with an object, in a sentence for whoever wrote it.
//!
//! Invariant: a problem is a function of the objects as they are now: it is gone when they are
//! fixed.

use std::{borrow::Cow, fmt, path::Path, sync::Arc};

use super::object::ObjectName;

/// Something wrong with one object.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// The object.
    pub object: Subject,
    /// The file that it came from, if from a file.
    pub file: Option<Arc<Path>>,
    /// What is wrong, and what happens instead.
    pub reason: Cow<'static, str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)?;
        match (&self.file, &self.object) {
            (Some(file), Subject::Service(_) | Subject::Slice(_) | Subject::Document(_)) => {
                write!(f, " ({})", file.display())
            }
            (Some(_), Subject::File(_) | Subject::Source(_) | Subject::Map(_)) | (None, _) => {
                Ok(())
            }
        }
    }
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Severity {
    /// The object works, but not with everything that it asks for.
    Notice,
    /// The object, or a part of it, does not work.
    Warning,
}

impl Severity {
    /// The name used in tables, JSON and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
        }
    }
}

/// What a problem is about.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// A file of the source.
    File(Arc<Path>),
    /// An object in a file that is neither a Service nor an EndpointSlice, or not a valid one:
    /// kind, namespace and name as far as they can be read.
    Document(Arc<str>),
    /// A Service.
    Service(ObjectName),
    /// An EndpointSlice.
    Slice(ObjectName),
    /// The source as a whole.
    Source(Arc<str>),
    /// A map that is full.
    Map(&'static str),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Document(text) => f.write_str(text),
            Self::Service(name) => write!(f, "Service {name}"),
            Self::Slice(name) => write!(f, "EndpointSlice {name}"),
            Self::Source(text) => write!(f, "source {text}"),
            Self::Map(name) => write!(f, "map {name}"),
        }
    }
}

/// Something that the conversion of an object has to say about it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Remark {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong, and what happens instead.
    pub reason: Cow<'static, str>,
}

impl Remark {
    /// A part of the object is left out.
    pub fn warning(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Warning, reason: reason.into() }
    }

    /// A wish of the object is not honoured.
    pub fn notice(reason: impl Into<Cow<'static, str>>) -> Self {
        Self { severity: Severity::Notice, reason: reason.into() }
    }

    /// The remark as a problem of its object.
    pub fn about(&self, object: Subject, file: Option<Arc<Path>>) -> Problem {
        Problem { severity: self.severity, object, file, reason: self.reason.clone() }
    }
}
