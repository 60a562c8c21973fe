//! SMTP: bytes to steps.
