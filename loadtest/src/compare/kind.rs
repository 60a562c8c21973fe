//! What can be compared: servers, two builds of Ringpost, and two load generators.

/// One side of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Ringpost,
    /// Another build of Ringpost.
    Baseline,
    Postfix,
    Exim,
    OpenSmtpd,
    Haraka,
    /// Our source and sink, without a server between them.
    Generator,
    /// Postfix's smtp-source and smtp-sink.
    SmtpSource,
}

/// The servers of a comparison without `--peers`.
pub const SERVERS: [Kind; 5] =
    [Kind::Ringpost, Kind::Postfix, Kind::Exim, Kind::OpenSmtpd, Kind::Haraka];

impl Kind {
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Ringpost => "Ringpost",
            Kind::Baseline => "Ringpost baseline",
            Kind::Postfix => "Postfix",
            Kind::Exim => "Exim",
            Kind::OpenSmtpd => "OpenSMTPD",
            Kind::Haraka => "Haraka",
            Kind::Generator => "ringpost-load",
            Kind::SmtpSource => "smtp-source",
        }
    }

    pub const fn key(self) -> &'static str {
        match self {
            Kind::Ringpost => "ringpost",
            Kind::Baseline => "baseline",
            Kind::Postfix => "postfix",
            Kind::Exim => "exim",
            Kind::OpenSmtpd => "opensmtpd",
            Kind::Haraka => "haraka",
            Kind::Generator => "ringpost-load",
            Kind::SmtpSource => "smtp-source",
        }
    }

    /// The maximum number of sessions that the server can handle.
    pub const fn sessions_max(self) -> Option<usize> {
        match self {
            // Its listen backlog of 5 is compiled in; further clients wait for seconds.
            Kind::OpenSmtpd => Some(5),
            _ => None,
        }
    }

    /// What its figures leave out.
    pub const fn caveat(self) -> Option<&'static str> {
        match self {
            Kind::Exim => Some(
                "its sessions do not wait for the deliveries that they start, so that the CPU time and \
                 bytes of deliveries are missing: figures marked \"at least\" are lower bounds",
            ),
            _ => None,
        }
    }

    pub const fn how_to_get(self) -> &'static str {
        match self {
            Kind::Ringpost => "`cargo build --release`, or --ringpost FILE",
            Kind::Baseline => "--baseline FILE",
            Kind::Postfix | Kind::SmtpSource => "`apt install postfix`",
            Kind::Exim => "`apt install exim4-daemon-light`, or unpack it and use --exim FILE",
            Kind::OpenSmtpd => "`apt install opensmtpd`, or unpack it and use --opensmtpd FILE",
            Kind::Haraka => "`npm install Haraka` in a folder, and --haraka FOLDER",
            Kind::Generator => "it is this program",
        }
    }

    /// Whether it must be started as root.
    pub const fn needs_root(self) -> bool {
        matches!(self, Kind::Postfix | Kind::Exim | Kind::OpenSmtpd)
    }

    pub const fn is_ringpost(self) -> bool {
        matches!(self, Kind::Ringpost | Kind::Baseline)
    }

    /// Whether its configuration can relay to many destinations.
    pub const fn has_domains(self) -> bool {
        matches!(self, Kind::Ringpost | Kind::Baseline | Kind::Postfix)
    }
}
