//! Messages written to files, in smtp-sink's format (-d, -D, -S).
//!
//! Order:    a message is written when its last byte has come, in one write, and before its answer.
//! Cost:     the write waits for the file system on the shard: this is for looking at mail, not for
//!           speed. The default path does not come here.

use std::fs;
use std::fs::OpenOptions;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use jiff::Zoned;

/// Where messages go.
#[derive(Clone, Debug)]
pub struct Dump {
    template: Arc<str>,
    start: Arc<[u8]>,
    /// Names the files of `-d` and the messages; none behind the names of `-D`.
    number: Arc<AtomicU64>,
    is_each: bool,
}

/// One message, as it came.
pub struct Letter<'l> {
    pub peer: SocketAddr,
    pub proto: &'static str,
    pub hostname: &'l str,
    pub helo: &'l [u8],
    pub mail: &'l [u8],
    pub recipients: &'l [Vec<u8>],
    /// With dots as they were stuffed, unless it came by BDAT.
    pub body: &'l [u8],
    pub is_stuffed: bool,
}

impl Dump {
    pub fn new(each: Option<&str>, all: Option<&str>, start: &str) -> Result<Option<Dump>, String> {
        let Some(template) = each.or(all) else { return Ok(None) };
        // A template that cannot be expanded is told now and not at the first message.
        jiff::fmt::strtime::format(template, &Zoned::now())
            .map_err(|cause| format!("-d, -D {template}: {cause}"))?;
        let start = unescape(start)?.into();
        let seed = u64::from(std::process::id()) << 32;
        let number = Arc::new(AtomicU64::new(seed));
        Ok(Some(Dump { template: template.into(), start, number, is_each: each.is_some() }))
    }

    pub fn write(&self, letter: &Letter<'_>) -> io::Result<()> {
        let now = Zoned::now();
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let name = jiff::fmt::strtime::format(&*self.template, &now).map_err(io::Error::other)?;
        let name = if self.is_each { format!("{name}{number:x}") } else { name };
        if let Some(folder) = Path::new(&name).parent().filter(|path| *path != Path::new("")) {
            fs::create_dir_all(folder)?;
        }
        let mut text = self.start.to_vec();
        head(letter, number, &now, &mut text)?;
        body(letter, &mut text);
        let mut file = OpenOptions::new();
        if self.is_each {
            file.write(true).create_new(true)
        } else {
            file.append(true).create(true)
        };
        file.open(&name)?.write_all(&text)
    }
}

fn head(letter: &Letter<'_>, number: u64, now: &Zoned, out: &mut Vec<u8>) -> io::Result<()> {
    let address = match letter.peer.ip() {
        std::net::IpAddr::V4(ip) => ip.to_string(),
        std::net::IpAddr::V6(ip) => format!("ipv6:{ip}"),
    };
    let lossy = String::from_utf8_lossy;
    let helo = lossy(letter.helo);
    writeln!(out, "X-Client-Addr: {address}\nX-Client-Proto: {}", letter.proto)?;
    if !helo.is_empty() {
        writeln!(out, "X-Helo-Args: {helo}")?;
    }
    writeln!(out, "X-Mail-Args: {}", lossy(letter.mail))?;
    for recipient in letter.recipients {
        writeln!(out, "X-Rcpt-Args: {}", lossy(recipient))?;
    }
    let from = if helo.is_empty() { &*address } else { &*helo };
    writeln!(out, "Received: from {from} ([{address}])")?;
    writeln!(out, "\tby {} (smtp-sink) with {} id {number:x};", letter.hostname, letter.proto)?;
    writeln!(out, "\t{}", now.strftime("%a, %d %b %Y %H:%M:%S %z (%Z)"))
}

/// Lines end in LF only, dots are taken out, and an empty line is the end.
fn body(letter: &Letter<'_>, out: &mut Vec<u8>) {
    for line in letter.body.split_inclusive(|byte| *byte == b'\n') {
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        let bare = bare.strip_suffix(b"\r").unwrap_or(bare);
        let bare = bare.strip_prefix(b".").filter(|_| letter.is_stuffed).unwrap_or(bare);
        out.extend_from_slice(bare);
        out.push(b'\n');
    }
    out.push(b'\n');
}

/// The escapes of C strings.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, behind)) = rest.split_first() {
        rest = behind;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let digits = rest.iter().take(3).take_while(|byte| matches!(byte, b'0'..=b'7')).count();
        if digits > 0 {
            let value =
                rest[..digits].iter().fold(0_u32, |sum, byte| sum * 8 + u32::from(byte - b'0'));
            out.push(value as u8);
            rest = &rest[digits..];
            continue;
        }
        let (&name, behind) = rest.split_first().ok_or("-S: nothing stands behind the last \\")?;
        rest = behind;
        out.push(match name {
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'\\' => b'\\',
            other => return Err(format!("-S: there is no escape \\{}", other as char)),
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_those_of_c() {
        assert_eq!(unescape("a\\n\\t\\101\\0b\\\\"), Ok(b"a\n\tA\0b\\".to_vec()));
        assert!(unescape("\\x").is_err() && unescape("\\").is_err());
    }

    #[test]
    fn messages_are_written_as_smtp_sink_does() {
        let folder = tempfile::tempdir().expect("a folder is made");
        let name = folder.path().join("a/%Y.");
        let dump = Dump::new(name.to_str(), None, "#\\n").expect("it is lawful").expect("it is on");
        let letter = Letter {
            peer: "127.0.0.1:9".parse().expect("an address"),
            proto: "ESMTP",
            hostname: "here",
            helo: b"there",
            mail: b"FROM:<a@b.test>",
            recipients: &[b"TO:<c@d.test>".to_vec()],
            body: b"S: x\r\n\r\n..dot\r\n",
            is_stuffed: true,
        };
        dump.write(&letter).expect("it is written");
        let file = fs::read_dir(folder.path().join("a")).expect("it was made").next();
        let path = file.expect("it is there").expect("it is readable").path();
        let text = fs::read_to_string(path).expect("it is text");
        assert!(text.starts_with("#\nX-Client-Addr: 127.0.0.1\nX-Client-Proto: ESMTP\n"), "{text}");
        assert!(text.contains("X-Rcpt-Args: TO:<c@d.test>\nReceived: from there"), "{text}");
        assert!(text.ends_with("\nS: x\n\n.dot\n\n"), "{text}");
    }
}
