//! Dropping root privileges, and a port that only root may bind.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::id_of;
use crate::scenario::kit::new_folder;
use crate::scenario::kit::run;
use crate::scenario::kit::text_of;
use crate::support::PATIENCE;
use crate::support::is_root;

const NOBODY: &str = "65534";

fn status_of(pid: u32) -> impl Fn(&str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    move |key| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.unwrap_or_else(|| panic!("no {key}")).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn root_becomes_a_user_without_privileges() {
    assert!(is_root("becoming another user"), "run this as root");
    let server = "user = \"nobody\"\n".to_owned();
    let rig = Rig::start(&Plan { server, http: true, ..Plan::default() });
    let pid = rig.server.child.id();
    let status = status_of(pid);
    let thrice = |id: &str| [id, id, id, id].join(" ");
    assert_eq!(status("Uid"), thrice(NOBODY));
    assert_eq!(status("Gid").split(' ').next(), status("Gid").split(' ').nth(1));
    assert_ne!(status("Gid"), thrice("0"));
    assert_eq!(status("NoNewPrivs"), "1");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(set), "0000000000000000", "{set}");
    }
    for entry in fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs") {
        let task = entry.expect("the folder is readable").path().join("status");
        // The thread may have ended.
        let Ok(text) = fs::read_to_string(task) else { continue };
        let uid = text.lines().find(|line| line.starts_with("Uid:")).expect("a line");
        assert!(!uid.split_whitespace().any(|id| id == "0"), "a thread still runs as root: {uid}");
    }
    // The server accepts mail, and owns all its files.
    let reply =
        rig.client().submit("a@x.test", "b@y.test", b"text\r\n").expect("the server answers");
    assert_eq!(reply.code, 250);
    check_owner(&rig.folder.path().join("spool"));
    let spool = fs::metadata(rig.folder.path().join("spool")).expect("there");
    assert_eq!(spool.mode() & 0o077, 0, "only the owner may access the spool");
    assert_eq!(rig.messages(), 1, "root may list the queue");
    rig.reload("reloaded");
}

/// Checks that everything in the folder belongs to nobody, and that no other user may write there.
fn check_owner(folder: &Path) {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("root may read the folder") {
            let path = entry.expect("the folder is readable").path();
            // The store may have deleted the file meanwhile.
            let Ok(about) = fs::symlink_metadata(&path) else { continue };
            assert_eq!(about.uid().to_string(), NOBODY, "{path:?}");
            assert_eq!(about.mode() & 0o007 & !0o1000, about.mode() & 0o007 & 0o005, "{path:?}");
            if about.is_dir() {
                folders.push(path);
            }
        }
    }
}

/// The service's user creates links in its spool, and root runs commands there.
#[test]
fn root_follows_no_link_of_the_service_and_leaves_no_file_of_its_own() {
    const SECRET: &str = "only root may know this\n";
    assert!(is_root("acting as another user"), "run this as root");
    let spool = new_folder();
    let plan = Plan {
        server: "user = \"nobody\"\n".to_owned(),
        spool: Some(spool.path().join("spool")),
        ..Plan::default()
    };
    let mut rig = Rig::start(&plan);
    let reply =
        rig.client().submit("a@x.test", "b@y.test", b"text\r\n").expect("the server answers");
    let id = id_of(&reply);
    rig.server.signal("TERM");
    assert!(rig.server.wait(PATIENCE).success());
    let spool = spool.path().join("spool");

    let vault = rig.folder.path().join("vault");
    fs::DirBuilder::new().mode(0o700).create(&vault).expect("made");
    let (file, new, socket) = (vault.join("file"), vault.join("new"), vault.join("socket"));
    fs::write(&file, SECRET).expect("written");
    let meta = vault.join("meta");
    fs::copy(spool.join("ringpost.json"), &meta).expect("copied");
    let listener = UnixListener::bind(&socket).expect("a socket");
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming() {
            counting.fetch_add(1, Ordering::Relaxed);
            drop(stream);
        }
    });
    let writes: &[&str] = &["hold", &id];
    let reads: &[&str] = &["list"];
    let rows: [(&str, &Path, &[&str]); 8] = [
        ("control.sock", &socket, reads),
        ("ringpost.json", &file, reads),
        ("ringpost.json", &meta, reads),
        ("lock", &file, writes),
        ("lock", &new, writes),
        ("p00/LOCK", &new, writes),
        ("p00/CURRENT", &file, reads),
        ("p00/IDENTITY", &file, reads),
    ];
    for (name, target, words) in rows {
        let (place, kept) = (spool.join(name), spool.join("kept"));
        let was_there = fs::rename(&place, &kept).is_ok();
        symlink(target, &place).expect("linked");
        std::os::unix::fs::lchown(&place, Some(65_534), None).expect("given");
        let out = rig.try_queue(words);
        let told = text_of(&out);
        assert!(!told.contains(SECRET.trim()), "{name} to {target:?}: {told}");
        assert_eq!(asked.load(Ordering::Relaxed), 0, "{name} to {target:?}: it was connected to");
        assert!(!new.exists(), "{name} to {target:?}: it was created");
        let held = fs::read_to_string(&file).expect("the file exists");
        assert_eq!(held, SECRET, "{name} to {target:?}");
        let may_do_without = name.ends_with("IDENTITY");
        assert!(!out.status.success() || may_do_without, "{name} to {target:?}: {told}");
        fs::remove_file(&place).expect("the file exists");
        if was_there {
            fs::rename(&kept, &place).expect("the file is moved back");
        }
    }
    // Without links the commands work, and the server can use the files they have written.
    rig.queue(writes);
    assert_eq!(rig.messages(), 1);
    check_owner(&spool);
    let rig = Rig::start(&plan);
    assert_eq!(rig.messages(), 1, "the server still has its mail");
}

/// Port 25 in a network namespace, as a user without privileges.
#[test]
fn a_privileged_port_is_bound_first() {
    assert!(is_root("a network namespace"), "run this as root");
    let folder = new_folder();
    let plan = Plan {
        server: "user = \"nobody\"\n".to_owned(),
        listeners: "[[listener]]\naddress = \"127.0.0.1:25\"\n".to_owned(),
        wrapper: vec!["unshare", "-n", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"],
        ..Plan::default()
    };
    let rig = Rig::start_in(folder, &plan);
    let pid = rig.server.child.id();
    let status = status_of(pid);
    assert_eq!(status("Uid"), [NOBODY; 4].join(" "));
    // The capability is dropped with the others: nothing can be bound after the start.
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(status(set), "0000000000000000", "{set}");
    }
    let pid = pid.to_string();
    let swaks = [
        "swaks",
        "--server",
        "127.0.0.1",
        "--port",
        "25",
        "--from",
        "a@x.test",
        "--to",
        "b@y.test",
    ];
    let out = run("nsenter", &[&["-t", &pid, "-n"][..], &swaks[..]].concat(), b"");
    assert!(out.status.success(), "{}", text_of(&out));
    let reached =
        Command::new("curl").args(["-s", "smtp://127.0.0.1:25"]).output().expect("curl is needed");
    assert!(!String::from_utf8_lossy(&reached.stdout).contains("ringpost"), "it is in our network");
}
