//! What ends the server, as one line: the operation, the object, the cause, the way out.

use std::fmt;

use nix::errno::Errno;

/// A failure of the server as a whole; a connection's failure is only that connection's (see
/// [`crate::end::End`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    what: String,
    cause: Option<Errno>,
    hint: Option<String>,
}

impl Failure {
    /// `what` failed because of `cause`.
    pub fn new(what: impl Into<String>, cause: Errno) -> Self {
        let hint = (cause == Errno::EMFILE).then_some("raise the limit of descriptors: ulimit -n");
        Self {
            what: what.into(),
            cause: Some(cause),
            hint: hint.map(Into::into),
        }
    }

    /// `what` failed, for a reason that is no errno.
    pub fn plain(what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            cause: None,
            hint: None,
        }
    }

    /// With the flag or command that helps.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self {
            hint: Some(hint.into()),
            ..self
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if let Some(errno) = self.cause {
            write!(f, ": {errno}")?;
        }
        self.hint
            .as_ref()
            .map_or(Ok(()), |hint| write!(f, " ({hint})"))
    }
}

impl std::error::Error for Failure {}
