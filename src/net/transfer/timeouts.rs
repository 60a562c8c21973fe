//! How long each stage of a transfer may take.

use std::time::Duration;

use crate::base::limits::TRANSFER_MS_MAX;
use crate::base::limits::TRANSFER_MS_PER_KIB;
use crate::wire::smtp::client_step::Stage;

/// How long each wait may take. The defaults are those of RFC 5321 s4.5.3.2, but for the greeting,
/// EHLO and RSET, where other servers are worth more than patience.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientTimeouts {
    pub greeting: Duration,
    /// Also each reply to AUTH.
    pub ehlo: Duration,
    /// The reply to STARTTLS, and then the handshake.
    pub starttls: Duration,
    pub mail: Duration,
    pub rcpt: Duration,
    /// DATA, until its 354.
    pub data_init: Duration,
    /// Each write of the body.
    pub data_block: Duration,
    /// The reply to the whole message. If this is too short, mail is delivered twice.
    pub data_end: Duration,
    pub rset: Duration,
    pub quit: Duration,
    /// The whole mail from its first command to its last reply, without the time for its size.
    pub transfer: Duration,
    /// The time for the size of the mail.
    pub transfer_per_kib: Duration,
}

impl Default for ClientTimeouts {
    fn default() -> ClientTimeouts {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        ClientTimeouts {
            greeting: Duration::from_secs(30),
            ehlo: minutes(2),
            starttls: minutes(2),
            mail: minutes(5),
            rcpt: minutes(5),
            data_init: minutes(2),
            data_block: minutes(3),
            data_end: minutes(10),
            rset: Duration::from_secs(20),
            quit: Duration::from_secs(5),
            transfer: Duration::from_millis(TRANSFER_MS_MAX),
            transfer_per_kib: Duration::from_millis(TRANSFER_MS_PER_KIB),
        }
    }
}

impl ClientTimeouts {
    /// How long the whole mail may take.
    pub fn of_mail(&self, bytes: u64) -> Duration {
        let kib = u32::try_from(bytes / 1024).unwrap_or(u32::MAX);
        self.transfer + self.transfer_per_kib.saturating_mul(kib)
    }

    pub fn of(&self, stage: Stage) -> Duration {
        match stage {
            Stage::Greeting => self.greeting,
            Stage::Ehlo | Stage::Auth => self.ehlo,
            Stage::StartTls => self.starttls,
            Stage::Mail => self.mail,
            Stage::Rcpt => self.rcpt,
            Stage::Data => self.data_init,
            Stage::End => self.data_end,
            Stage::Rset => self.rset,
            Stage::Quit => self.quit,
        }
    }
}
