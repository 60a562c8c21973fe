//! Failed starts: each message contains the cause and the remedy.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;
use std::time::Instant;

use tempfile::TempDir;

use crate::scenario::kit::Plan;
use crate::scenario::kit::Rig;
use crate::scenario::kit::free_address;
use crate::scenario::kit::new_folder;
use crate::scenario::kit::serve_command;
use crate::scenario::kit::text_of;

/// Runs a server that must end soon with code 1, and print all these words.
fn refused(name: &str, folder: &TempDir, plan: &Plan, told: &[&str]) {
    fs::write(folder.path().join("ringpost.toml"), plan.text(folder.path(), None))
        .expect("the file is writable");
    refused_as_written(name, folder, plan, told);
}

fn refused_as_written(name: &str, folder: &TempDir, plan: &Plan, told: &[&str]) {
    let mut child = serve_command(folder.path(), plan).spawn().expect("the binary can be run");
    let end = Instant::now() + Duration::from_secs(20);
    while child.try_wait().expect("the child is ours").is_none() {
        if Instant::now() > end {
            child.kill().expect("the process runs");
            panic!("{name}: it starts: {}", text_of(&child.wait_with_output().expect("ended")));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let out = child.wait_with_output().expect("the child has ended");
    let said = text_of(&out);
    assert_eq!(out.status.code(), Some(1), "{name}: {said}");
    for word in told {
        assert!(said.contains(word), "{name}: {word:?} is not in {said}");
    }
    assert!(!said.contains("panicked"), "{name}: {said}");
}

#[test]
fn a_port_in_use_is_reported() {
    let address = free_address();
    let taken = std::net::TcpListener::bind(address).expect("the port is free");
    let folder = new_folder();
    let plan =
        Plan { listeners: format!("[[listener]]\naddress = \"{address}\"\n"), ..Plan::default() };
    refused(
        "a stranger's port",
        &folder,
        &plan,
        &[&address.to_string(), "in use", "choose another port"],
    );
    drop(taken);
    let first = Rig::start(&plan);
    refused("another ringpost's port", &folder, &plan, &[&address.to_string(), "in use"]);
    drop(first);
    let plan = Plan {
        listeners: "[[listener]]\naddress = \"192.0.2.1:2525\"\n".to_owned(),
        ..Plan::default()
    };
    refused("no address of ours", &folder, &plan, &["192.0.2.1:2525", "ip address"]);
}

#[test]
fn a_spool_is_used_by_one_server() {
    let first = Rig::start(&Plan::default());
    let folder = new_folder();
    let plan = Plan { spool: Some(first.folder.path().join("spool")), ..Plan::default() };
    let pid = first.server.child.id().to_string();
    refused("locked", &folder, &plan, &["spool", "in use", &pid, "stop process"]);
    first.client().expect("NOOP", 250);
}

#[test]
fn a_newer_spool_is_not_changed() {
    let mut rig = Rig::start(&Plan::default());
    rig.client().submit("a@x.test", "b@y.test", b"text\r\n").expect("the server answers");
    rig.server.signal("TERM");
    rig.server.wait(crate::support::PATIENCE);
    let meta = rig.folder.path().join("spool/ringpost.json");
    let good = fs::read_to_string(&meta).expect("every spool has this file");
    let format = good.lines().find(|line| line.contains("\"format\":")).expect("it has a format");
    let plan = rig.plan.clone();
    let folder = std::mem::replace(&mut rig.folder, new_folder());
    drop(rig);
    fs::write(&meta, good.replace(format, "  \"format\": 999,")).expect("the file is writable");
    refused("newer", &folder, &plan, &["999", "newer"]);
    fs::write(&meta, "{ this is no JSON").expect("the file is writable");
    refused("unreadable", &folder, &plan, &["ringpost.json"]);
    fs::write(&meta, good).expect("the file is writable");
    let wrong = Plan { rest: "[queue]\npartitions = 7\n".to_owned(), ..plan.clone() };
    refused("other partitions", &folder, &wrong, &["partitions", "7"]);
    let rig = Rig::start_in(folder, &plan);
    assert_eq!(rig.messages(), 1, "nothing was changed meanwhile");
}

#[test]
fn unreadable_configs_are_reported() {
    let folder = new_folder();
    let plan = Plan::default();
    refused_as_written("missing", &folder, &plan, &["ringpost.toml", "No such file"]);
    fs::create_dir(folder.path().join("ringpost.toml")).expect("the file is writable");
    refused_as_written("a folder", &folder, &plan, &["ringpost.toml", "irectory"]);
    let folder = new_folder();
    fs::write(folder.path().join("ringpost.toml"), b"[server]\nhostname = \"\xff\"\n")
        .expect("the file is writable");
    refused_as_written("no UTF-8", &folder, &plan, &["ringpost.toml", "UTF-8"]);
}

#[test]
fn wrong_permissions_are_reported() {
    assert!(crate::support::is_root("giving a spool to another user"), "run this as root");
    let user = "user = \"nobody\"\n".to_owned();
    let folder = new_folder();
    let plan = Plan { server: user.clone(), ..Plan::default() };
    // A spool that belongs to root and is not empty.
    let spool = folder.path().join("spool");
    fs::create_dir(&spool).expect("the file is writable");
    fs::write(spool.join("something"), "else").expect("the file is writable");
    refused("another's spool", &folder, &plan, &["spool", "nobody", "chown"]);
    // A folder above the spool that may not be entered.
    let folder = new_folder();
    let closed = folder.path().join("closed");
    fs::create_dir(&closed).expect("the file is writable");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).expect("the file is writable");
    let plan = Plan { spool: Some(closed.join("spool")), server: user.clone(), ..Plan::default() };
    refused("a closed folder above", &folder, &plan, &["closed", "nobody"]);
    // A log that may not be written.
    let folder = new_folder();
    let plan = Plan {
        server: user.clone(),
        log: format!("output = {:?}\n", closed.join("log")),
        ..Plan::default()
    };
    refused("a closed log", &folder, &plan, &["closed/log"]);
    // A key that the user may not read.
    let pair = crate::scenario::kit::certificate(folder.path(), "mine", "mx.ringpost.test");
    let plan = Plan {
        server: user,
        rest: crate::scenario::kit::certificate_table(&pair),
        ..Plan::default()
    };
    refused("a closed key", &folder, &plan, &["mine.key"]);
    let plan = Plan { server: "user = \"no-such-user\"\n".to_owned(), ..Plan::default() };
    refused("no such user", &folder, &plan, &["no-such-user", "useradd"]);
    let plan = Plan { server: "user = \"root\"\n".to_owned(), ..Plan::default() };
    refused("root as the user", &folder, &plan, &["root"]);
}

#[test]
fn limits_of_the_machine_are_reported() {
    let folder = new_folder();
    let plan = Plan { server: "cores = \"4095\"\n".to_owned(), ..Plan::default() };
    refused("no such core", &folder, &plan, &["4095", "cores"]);
    let wrapper = vec!["prlimit", "--nofile=64:64"];
    refused("few files", &folder, &Plan { wrapper, ..Plan::default() }, &["open files"]);
}
