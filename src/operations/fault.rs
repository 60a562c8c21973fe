//! Why an operation failed.
//!
//! Promise:  `code` is stable, for programs; `detail` and `hint` are sentences for people. The kind
//!           alone decides the HTTP status and the exit code.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::Serialize;

/// A failed operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpFault {
    pub code: Cow<'static, str>,
    pub kind: FaultKind,
    pub detail: String,
    /// Errors of single fields of the request or keys of the config.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<FieldFault>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Seconds after which the same request may succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
}

/// One field of a request, or one key of the config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FieldFault {
    pub path: String,
    pub code: Cow<'static, str>,
    pub text: String,
}

/// Decides the HTTP status and the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// The request or the config is wrong.
    Usage,
    NotFound,
    /// The object is not in a state that allows the operation.
    Conflict,
    Denied,
    /// The server, or a part of it, does not answer now.
    Away,
    Other,
}

impl FaultKind {
    pub const ALL: [FaultKind; 6] = [
        FaultKind::Usage,
        FaultKind::NotFound,
        FaultKind::Conflict,
        FaultKind::Denied,
        FaultKind::Away,
        FaultKind::Other,
    ];

    /// Exit code, HTTP status, and the `title` of a problem document.
    fn row(self) -> (u8, u16, &'static str) {
        match self {
            FaultKind::Usage => (2, 422, "Invalid request"),
            FaultKind::NotFound => (3, 404, "Not found"),
            FaultKind::Conflict => (4, 409, "Conflict"),
            FaultKind::Denied => (5, 403, "Permission denied"),
            FaultKind::Away => (6, 503, "Unavailable"),
            FaultKind::Other => (1, 500, "Internal error"),
        }
    }

    pub fn exit_code(self) -> u8 {
        self.row().0
    }

    pub fn http_status(self) -> u16 {
        self.row().1
    }

    pub fn title(self) -> &'static str {
        self.row().2
    }
}

impl OpFault {
    pub fn new(kind: FaultKind, code: &'static str, detail: impl Into<String>) -> OpFault {
        OpFault {
            code: code.into(),
            kind,
            detail: detail.into(),
            faults: Vec::new(),
            hint: None,
            retry_after: None,
        }
    }

    pub fn usage(code: &'static str, detail: impl Into<String>) -> OpFault {
        OpFault::new(FaultKind::Usage, code, detail)
    }

    pub fn not_found(code: &'static str, detail: impl Into<String>) -> OpFault {
        OpFault::new(FaultKind::NotFound, code, detail)
    }

    pub fn conflict(code: &'static str, detail: impl Into<String>) -> OpFault {
        OpFault::new(FaultKind::Conflict, code, detail)
    }

    pub fn away(code: &'static str, detail: impl Into<String>) -> OpFault {
        OpFault::new(FaultKind::Away, code, detail)
    }

    pub fn other(code: &'static str, detail: impl Into<String>) -> OpFault {
        OpFault::new(FaultKind::Other, code, detail)
    }

    /// The operation needs a running server.
    pub fn not_running() -> OpFault {
        OpFault::away("not_running", "the server is not running")
            .hint("start it with `ringpost serve`")
    }

    /// A panic ended the operation.
    pub fn bug() -> OpFault {
        OpFault::other("bug", "the operation failed because of a bug")
            .hint("see the server's log and report the bug")
    }

    pub fn hint(self, hint: impl Into<String>) -> OpFault {
        OpFault { hint: Some(hint.into()), ..self }
    }

    pub fn retry_after(self, seconds: u64) -> OpFault {
        OpFault { retry_after: Some(seconds), ..self }
    }

    pub fn fault(mut self, path: &str, code: &'static str, text: impl Into<String>) -> OpFault {
        self.faults.push(FieldFault {
            path: path.to_owned(),
            code: code.into(),
            text: text.into(),
        });
        self
    }

    /// The object that the fault is about, in front of the detail.
    pub fn about(self, object: &str) -> OpFault {
        OpFault { detail: format!("{object}: {}", self.detail), ..self }
    }
}

/// One line for each fault, the hint behind the first.
impl fmt::Display for OpFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        // A fault of one field says the same as the detail.
        let faults = self.faults.iter().filter(|fault| !self.detail.ends_with(&*fault.text));
        for FieldFault { path, text, .. } in faults {
            match path.is_empty() {
                true => write!(f, "\n{text}")?,
                false => write!(f, "\n{path}: {text}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_own_exit_code_and_status() {
        let rows = FaultKind::ALL.map(|kind| (kind.exit_code(), kind.http_status()));
        assert_eq!(rows, [(2, 422), (3, 404), (4, 409), (5, 403), (6, 503), (1, 500)]);
    }

    #[test]
    fn a_fault_is_read_back_and_reads_as_lines() {
        let fault = OpFault::usage("config_invalid", "the config file has errors")
            .hint("run `ringpost check`")
            .fault("f:3: relay.networks", "invalid", "not a network")
            .retry_after(3);
        let text = serde_json::to_string(&fault).expect("it has no maps");
        let read: OpFault = serde_json::from_str(&text).expect("the same type");
        assert_eq!(read, fault);
        assert_eq!(
            read.to_string(),
            "the config file has errors; run `ringpost check`\nf:3: relay.networks: not a network"
        );
    }
}
