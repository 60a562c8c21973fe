//! The host name of this machine, for use when `server.hostname` is not set.
//!
//! Promise:  no DNS query, so a start never waits for the network.

use std::path::Path;

use crate::boot::proc::text_of;

/// The host name, fully qualified if a file says so: from the kernel, `/etc/hosts` and `/etc/mailname`
/// below `root`.
pub fn read(root: &Path) -> String {
    let own = text_of(root, "proc/sys/kernel/hostname").trim().to_ascii_lowercase();
    let hosts = text_of(root, "etc/hosts");
    let mailname = text_of(root, "etc/mailname").trim().to_ascii_lowercase();
    let full = [Some(own.clone()), canonical_name(&hosts, &own), Some(mailname)];
    match full.into_iter().flatten().find(|name| is_qualified(name)) {
        Some(name) => name,
        None if own.is_empty() => "localhost".to_owned(),
        None => own,
    }
}

/// The name that `hostname -f` prints: the first qualified name on the line of `/etc/hosts` that lists `own`.
fn canonical_name(hosts: &str, own: &str) -> Option<String> {
    let lines = hosts.lines().map(|line| line.split('#').next().unwrap_or(""));
    let mut names = lines.map(|line| line.split_whitespace().skip(1).collect::<Vec<_>>());
    let line = names.find(|names| names.iter().any(|name| name.eq_ignore_ascii_case(own)))?;
    line.iter().find(|name| is_qualified(name)).map(|name| name.to_ascii_lowercase())
}

fn is_qualified(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    let local = name == "localhost" || name.ends_with(".localdomain");
    name.contains('.') && name.len() <= 253 && !local && name.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    fn put(root: &Path, file: &str, text: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn host_names_are_found() {
        let rows = [
            ("a full name", "MX1.Example.org\n", "", "", "mx1.example.org", true),
            (
                "from hosts",
                "mx1\n",
                "127.0.1.1 mx1.example.org mx1 # x\n",
                "",
                "mx1.example.org",
                true,
            ),
            (
                "hosts, short name first",
                "mx1\n",
                "10.0.0.1 mx1 mx1.example.org\n",
                "",
                "mx1.example.org",
                true,
            ),
            ("from mailname", "mx1\n", "127.0.1.1 mx1\n", "example.org\n", "example.org", true),
            ("short", "mx1\n", "", "", "mx1", false),
            ("a made-up domain", "box.localdomain\n", "", "", "box.localdomain", false),
            ("none", "", "", "", "localhost", false),
            ("no host name", "a_b.example.org\n", "", "", "a_b.example.org", false),
        ];
        for (row, own, hosts, mailname, name, qualified) in rows {
            let root = tempfile::tempdir().expect("a folder for the test");
            put(root.path(), "proc/sys/kernel/hostname", own);
            put(root.path(), "etc/hosts", hosts);
            put(root.path(), "etc/mailname", mailname);
            let found = read(root.path());
            assert_eq!((found.as_str(), is_qualified(&found)), (name, qualified), "{row}");
        }
    }
}
