//! Disks that are full, nearly full, broken or damaged, under a real server: 452 or 451 at once,
//! never a 250 that is lost, never a 5xx, and a server that takes mail again as soon as it can.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use ringpost::base::PublicId;
use ringpost::queue::Access;
use ringpost::queue::record::family::FAMILIES;
use ringpost::queue::record::key;

use crate::support::BINARY;
use crate::support::Client;
use crate::support::PATIENCE;
use crate::support::Server;
use crate::support::Setup;
use crate::support::disk::FailingDisk;
use crate::support::disk::Filter;
use crate::support::disk::SmallDisk;
use crate::support::is_root;
use crate::support::ledger::Audit;
use crate::support::ledger::Ledger;
use crate::support::ledger::Mail;
use crate::support::ledger::MailState;
use crate::support::ledger::Reading;
use crate::support::ledger::open;
use crate::support::ledger::without_header;
use crate::support::load::Load;
use crate::support::load::Plan;
use crate::support::load::Random;
use crate::support::load::Shape;
use crate::support::load::send;
use crate::support::queue;

/// A store that failed: the service manager is to start us again.
const EXIT_STORE_FAILED: i32 = 75;

const MIB: usize = 1 << 20;

/// A spool somewhere, the folder of its server's config, and what was sent to it.
struct Scene {
    folder: tempfile::TempDir,
    spool: PathBuf,
    ledger: Arc<Ledger>,
    config: String,
}

impl Scene {
    fn new(spool: PathBuf, config: &str) -> Scene {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let config = format!("[queue]\npartitions = 1\n{config}\n");
        Scene { folder, spool, ledger: Arc::default(), config }
    }

    fn start(&self) -> Server {
        self.start_with("")
    }

    fn start_with(&self, failpoints: &str) -> Server {
        let setup = Setup {
            config: self.config.clone(),
            spool: Some(self.spool.clone()),
            environment: vec![("FAILPOINTS".to_owned(), failpoints.to_owned())],
            ..Setup::default()
        };
        Server::start(self.folder.path(), &setup)
    }

    fn load(&self, server: &Server, shapes: &'static [Shape]) -> Load {
        let plan = Plan { clients: 4, seed: 7, shapes, remover: None };
        Load::start(server.address(), &self.ledger, plan)
    }

    fn client(&self, server: &Server) -> Client {
        let mut client = server.connect();
        client.greet().expect("a greeting");
        client
    }

    /// Sends one small message, and says how it was answered.
    fn send_one(&self, client: &mut Client) -> String {
        let mut random = Random::new(self.ledger.acknowledged() as u64);
        let reply = send(client, &self.ledger, Shape::Small, &mut random).expect("a reply");
        if reply.code != 250 {
            client.expect("RSET", 250);
        }
        reply.text.trim().to_owned()
    }

    /// Sends small messages until they are answered like that.
    fn send_until(&self, client: &mut Client, code: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            let reply = self.send_one(client);
            if reply.starts_with(code) {
                return;
            }
            assert!(Instant::now() < end, "waited for {code}, heard {reply}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Sends until the disk stays full. What the store tidies up by itself may make room once more; that
    /// is filled too.
    fn send_until_full_at_rest(&self, client: &mut Client) {
        let mut refused = 0;
        while refused < 20 {
            let full = self.send_one(client).starts_with("452 4.3.1");
            refused = if full { refused + 1 } else { 0 };
            thread::sleep(Duration::from_millis(if full { 50 } else { 0 }));
        }
    }

    #[track_caller]
    fn stop_and_audit(&self, mut server: Server, when: &str) -> Audit {
        server.signal("TERM");
        let status = server.wait(PATIENCE);
        assert_eq!(status.code(), Some(0), "{when}: {}", server.whole_log());
        self.audit(when)
    }

    #[track_caller]
    fn audit(&self, when: &str) -> Audit {
        let audit = self.ledger.audit_stopped(&self.spool, Reading::Everything);
        audit.assert_sound(when);
        assert!(audit.recovered > 0, "{when}: there was mail to lose");
        println!("{when}: {audit}; refusals: {:?}", self.ledger.replies());
        audit
    }

    fn wait_for_refusals(&self, code: &str, count: usize) {
        let end = Instant::now() + 2 * PATIENCE;
        while self.ledger.refusals(code) < count {
            let replies = self.ledger.replies();
            assert!(Instant::now() < end, "no {count} times {code}: {replies:?}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Fills the disk by mail, frees some of it, and wants mail to be taken again.
fn fill_and_free(name: &str, shapes: &'static [Shape]) {
    let Some(disk) = SmallDisk::mount("size=96m") else { return };
    let scene = Scene::new(
        disk.path().join("spool"),
        "memory = \"4MiB\"\nmin_free_space = \"0\"\nmin_free_inodes = 0",
    );
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 40 * MIB]).expect("it is empty so far");
    let server = scene.start();
    let load = scene.load(&server, shapes);
    scene.wait_for_refusals("452 4.3.1", 200);
    let full_at = scene.ledger.acknowledged();
    assert!(full_at > 20, "{name}: some mail came before the disk was full");
    fs::remove_file(&ballast).expect("it was there");
    let freed = Instant::now();
    load.await_acknowledged(100);
    println!("{name}: full after {full_at} messages, mail again {:?} after", freed.elapsed());
    load.stop();
    assert_eq!(scene.ledger.refusals("5"), 0, "{name}: never 5xx: {:?}", scene.ledger.replies());
    assert_eq!(scene.ledger.refusals("451"), 0, "{name}: {:?}", scene.ledger.replies());
    assert!(!server.log_text().contains("commit_failed"), "{name}: {}", server.log_brief());
    scene.stop_and_audit(server, name);
}

#[test]
fn a_disk_full_of_small_mail_refuses_and_recovers() {
    fill_and_free("small mail", &[Shape::Small]);
}

#[test]
fn a_disk_full_of_all_kinds_of_mail_refuses_and_recovers() {
    fill_and_free("all kinds", Shape::SOUND);
}

#[test]
fn an_operator_may_delete_where_mail_is_refused() {
    let Some(disk) = SmallDisk::mount("size=200m") else { return };
    let scene = Scene::new(
        disk.path().join("spool"),
        "memory = \"4MiB\"\nmin_free_space = \"130MB\"\nmin_free_inodes = 0",
    );
    let server = scene.start();
    let load = scene.load(&server, &[Shape::Streamed]);
    scene.wait_for_refusals("452 4.3.1", 50);
    load.stop();
    let mut client = scene.client(&server);
    scene.send_until_full_at_rest(&mut client);
    let victims = scene.ledger.some_acknowledged(usize::MAX, 20);
    assert!(victims.len() > 50, "there is something to delete");
    delete_all(&scene, &victims);
    let deleted = Instant::now();
    scene.send_until(&mut client, "250");
    drop(client);
    println!("mail again {:?} after {} were deleted", deleted.elapsed(), victims.len());
    scene.stop_and_audit(server, "deletion");
}

/// Deletes that mail by the command line, and notes it as gone.
fn delete_all(scene: &Scene, victims: &[(Mail, PublicId)]) {
    victims.iter().for_each(|(mail, _)| scene.ledger.note(*mail, MailState::Removing));
    for victims in victims.chunks(500) {
        let ids: Vec<String> = victims.iter().map(|(_, id)| id.to_string()).collect();
        let mut words = vec!["delete"];
        words.extend(ids.iter().map(String::as_str));
        let done = queue(scene.folder.path(), &words);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    victims.iter().for_each(|(mail, _)| scene.ledger.note(*mail, MailState::Removed));
}

/// The first client comes before the server says that it has started.
#[test]
fn the_floor_holds_from_the_first_connection_on() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let setup =
        Setup { config: "[queue]\nmin_free_space = \"900TiB\"\n".into(), ..Setup::default() };
    let server = Server::spawn(folder.path(), &setup);
    let end = Instant::now() + PATIENCE;
    let address = loop {
        let log = server.log_text();
        // The table of the start names it first.
        let behind = log.split_once("127.0.0.1:").and_then(|(_, rest)| rest.split_once([' ', ',']));
        if let Some(port) = behind.and_then(|(port, _)| port.parse::<u16>().ok()) {
            break SocketAddr::from(([127, 0, 0, 1], port));
        }
        assert!(Instant::now() < end, "it does not listen:\n{log}");
        thread::yield_now();
    };
    let mut client = Client::connect(address).expect("it listens");
    client.greet().expect("a greeting");
    client.expect("MAIL FROM:<a@x.test>", 452);
}

/// So few tables that no compaction is due by itself.
#[test]
fn mail_that_was_deleted_offline_gives_its_room_back_after_a_restart() {
    let Some(disk) = SmallDisk::mount("size=120m") else { return };
    let scene = Scene::new(
        disk.path().join("spool"),
        "memory = \"100MiB\"\nmin_free_space = \"70MB\"\nmin_free_inodes = 0",
    );
    let mut server = scene.start();
    let load = scene.load(&server, &[Shape::Streamed]);
    scene.wait_for_refusals("452 4.3.1", 50);
    load.stop();
    // A flush that is killed leaves its files beside the log, and the next start writes them again.
    // That needs the reserve, which has no room on this disk.
    scene.send_until_full_at_rest(&mut scene.client(&server));
    server.kill();
    let victims = scene.ledger.some_acknowledged(usize::MAX, 2);
    assert!(victims.len() > 20, "there is something to delete");
    delete_all(&scene, &victims);
    let server = scene.start();
    let mut client = scene.client(&server);
    scene.send_until(&mut client, "250");
    drop(client);
    scene.stop_and_audit(server, "offline deletion");
}

/// A server that was killed on a disk that then had not one byte left.
fn full_to_the_last_byte() -> Option<(SmallDisk, Scene, PathBuf)> {
    let disk = SmallDisk::mount("size=96m")?;
    let scene = Scene::new(
        disk.path().join("spool"),
        "memory = \"4MiB\"\nmin_free_space = \"0\"\nmin_free_inodes = 0",
    );
    let mut server = scene.start();
    let load = scene.load(&server, &[Shape::Small, Shape::Streamed]);
    load.await_acknowledged(150);
    load.stop();
    server.kill();
    let ballast = disk.path().join("ballast");
    let mut file = fs::File::create(&ballast).expect("there is room");
    let mut block = vec![1; MIB];
    while !block.is_empty() {
        match file.write(&block) {
            Ok(_) => {}
            Err(cause) if cause.kind() == std::io::ErrorKind::StorageFull => {
                block.truncate(block.len() / 2);
            }
            Err(cause) => panic!("{cause}"),
        }
    }
    let free = ringpost::queue::store::space::space(disk.path()).expect("it is mounted").free_bytes;
    assert_eq!(free, 0);
    Some((disk, scene, ballast))
}

#[test]
fn mail_is_deleted_offline_with_no_byte_free_and_then_taken_again() {
    let Some((_disk, scene, _)) = full_to_the_last_byte() else { return };
    delete_all(&scene, &scene.ledger.some_acknowledged(usize::MAX, 10));
    let server = scene.start();
    let mut client = scene.client(&server);
    scene.send_until(&mut client, "250");
    drop(client);
    scene.stop_and_audit(server, "offline deletion with no byte free");
}

#[test]
fn a_server_starts_with_no_byte_free_and_mail_is_deleted_from_it() {
    let Some((_disk, scene, ballast)) = full_to_the_last_byte() else { return };
    let server = scene.start();
    let mut client = scene.client(&server);
    let reply = scene.send_one(&mut client);
    assert!(reply.starts_with("452 4.3.1"), "{reply}");
    delete_all(&scene, &scene.ledger.some_acknowledged(usize::MAX, 10));
    scene.send_until(&mut client, "250");
    drop(client);
    scene.stop_and_audit(server, "no byte free");
    fs::remove_file(ballast).expect("it was there");
}

#[cfg(feature = "failpoints")]
#[test]
fn a_disk_that_hangs_is_told_mail_is_refused_and_taken_again_afterwards() {
    if !is_root("a disk that hangs") {
        return;
    }
    let Some(mut disk) = FailingDisk::new(Filter::Error) else { return };
    disk.power_on();
    let scene = Scene::new(disk.mount_point().join("spool"), "min_free_space = \"1MB\"");
    let server = scene.start_with("commit::hung_ms=return(700)");
    let mut client = scene.client(&server);
    scene.send_until(&mut client, "250");
    let load = scene.load(&server, Shape::SOUND);
    load.await_acknowledged(50);
    disk.hang(true);
    // Some are told after they waited with their data, others at MAIL.
    scene.wait_for_refusals("451 4.3.0", 20);
    let told = server.wait_for_log("\"record\":\"commit_hung\"");
    assert!(told.contains("\"level\":\"error\"") && told.contains("\"partition\""), "{told}");
    client.expect("MAIL FROM:<a@x.test>", 451);
    let health = || {
        let config = scene.folder.path().join("ringpost.toml");
        let asked = Command::new(BINARY).arg("health").arg("--config").arg(config).output();
        String::from_utf8(asked.expect("the binary runs").stderr).expect("text")
    };
    let said = health();
    assert!(said.contains("partition 0: the disk has not answered for"), "{said}");
    disk.hang(false);
    server.wait_for_log("\"record\":\"commit_resumed\"");
    assert!(!health().contains("has not answered"), "the disk is well again");
    load.await_acknowledged(50);
    load.stop();
    scene.send_until(&mut client, "250");
    drop(client);
    assert_eq!(scene.ledger.refusals("5"), 0, "never 5xx: {:?}", scene.ledger.replies());
    assert!(!server.log_text().contains("commit_failed"), "{}", server.log_brief());
    scene.stop_and_audit(server, "a disk that hung");
    disk.power_off().expect("nobody has a file open");
}

#[test]
fn mail_is_refused_before_the_disk_is_full() {
    let Some(disk) = SmallDisk::mount("size=96m") else { return };
    let scene = Scene::new(
        disk.path().join("spool"),
        "memory = \"4MiB\"\nmin_free_space = \"48MB\"\nmin_free_inodes = 0",
    );
    let server = scene.start();
    let mut client = scene.client(&server);
    for round in ["first", "second"] {
        scene.send_until(&mut client, "250");
        let ballast = disk.path().join("ballast");
        fs::write(&ballast, vec![1; 60 * MIB]).expect("there is room for it");
        scene.send_until(&mut client, "452 4.3.1");
        let free =
            ringpost::queue::store::space::space(disk.path()).expect("it is mounted").free_bytes;
        assert!(free > 8 << 20, "{round}: refused with {free} bytes to spare");
        fs::remove_file(&ballast).expect("it was there");
    }
    scene.send_until(&mut client, "250");
    server.wait_for_log("\"record\":\"spool_full\"");
    server.wait_for_log("\"record\":\"spool_recovered\"");
    drop(client);
    scene.stop_and_audit(server, "min_free_space");
}

#[test]
fn mail_is_refused_before_the_inodes_are_used_up() {
    let Some(disk) = SmallDisk::mount("size=96m,nr_inodes=2000") else { return };
    let scene =
        Scene::new(disk.path().join("spool"), "min_free_space = \"0\"\nmin_free_inodes = 1000");
    let server = scene.start();
    let mut client = scene.client(&server);
    let many = disk.path().join("many");
    for _ in 0..2 {
        scene.send_until(&mut client, "250");
        fs::create_dir(&many).expect("there is an inode");
        for number in 0..1200 {
            fs::write(many.join(number.to_string()), b"").expect("there are inodes");
        }
        scene.send_until(&mut client, "452 4.3.1");
        fs::remove_dir_all(&many).expect("it was there");
    }
    scene.send_until(&mut client, "250");
    drop(client);
    scene.stop_and_audit(server, "min_free_inodes");
}

/// A server whose store fails says so at once and ends with 75; another one has all the mail.
#[track_caller]
fn ends_with_75(scene: &Scene, mut server: Server, load: Load) {
    let status = server.wait(PATIENCE);
    load.stop();
    let log = server.whole_log();
    assert_eq!(status.code(), Some(EXIT_STORE_FAILED), "{log}");
    assert!(log.contains("\"record\":\"commit_failed\""), "{log}");
    let told = scene.ledger.refusals("451 4.3.0") + scene.ledger.refusals("421");
    assert!(told > 0, "the clients were told: {:?}", scene.ledger.replies());
    assert_eq!(scene.ledger.refusals("5"), 0, "never 5xx: {:?}", scene.ledger.replies());
}

#[cfg(feature = "failpoints")]
#[test]
fn a_store_that_fails_ends_the_process_and_a_restart_has_all_mail() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let scene = Scene::new(folder.path().join("spool"), "min_free_space = \"0\"");
    let server = scene.start_with("commit::error=200*off->return(eio)");
    let load = scene.load(&server, Shape::SOUND);
    ends_with_75(&scene, server, load);
    let server = scene.start();
    let mut client = scene.client(&server);
    scene.send_until(&mut client, "250");
    drop(client);
    scene.stop_and_audit(server, "injected EIO");
}

#[test]
fn a_disk_that_fails_ends_the_process_and_a_restart_has_all_mail() {
    if !is_root("a disk that fails") {
        return;
    }
    let Some(mut disk) = FailingDisk::new(Filter::Error) else { return };
    disk.power_on();
    let scene = Scene::new(disk.mount_point().join("spool"), "min_free_space = \"1MB\"");
    let server = scene.start();
    let load = scene.load(&server, Shape::SOUND);
    load.await_acknowledged(200);
    disk.fail_writes(true);
    ends_with_75(&scene, server, load);
    // The file system has given up; the disk is well again, and so is it after a new mount.
    disk.fail_writes(false);
    disk.clear_away();
    disk.power_on();
    scene.audit("EIO of the disk");
    let server = scene.start();
    let mut client = scene.client(&server);
    scene.send_until(&mut client, "250");
    drop(client);
    scene.stop_and_audit(server, "EIO of the disk, and after a restart");
    disk.power_off().expect("nobody has a file open");
}

/// A stopped spool with that many messages, and their ids.
fn stopped_spool(folder: &Path, count: usize) -> (Scene, Vec<(Mail, PublicId)>) {
    let scene = Scene::new(folder.join("spool"), "min_free_space = \"0\"");
    let mut server = scene.start();
    let load = scene.load(&server, Shape::SOUND);
    load.await_acknowledged(count);
    load.stop();
    server.kill();
    let sent = scene.ledger.some_acknowledged(usize::MAX, 0);
    (scene, sent)
}

fn quarantined(scene: &Scene) -> Vec<PathBuf> {
    let entries = fs::read_dir(scene.spool.join("quarantine")).expect("a spool has one");
    entries.map(|entry| entry.expect("it can be read").path()).collect()
}

#[test]
fn damaged_records_go_to_quarantine_and_the_rest_is_there() {
    const OTHER_VERSION: &[u8] = b"\x63Ea record of a version yet to come";
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let (scene, sent) = stopped_spool(folder.path(), 100);
    let spool = open(&scene.spool, Access::Serve);
    let partition = &spool.partitions()[0];
    let families = partition.families();
    let read = |family, key: &[u8]| {
        partition.db().get_cf(family, key).expect("it can be read").expect("it is there")
    };
    let damaged = &sent[10..13];
    let mut planted = Vec::new();
    for (place, (mail, id)) in damaged.iter().enumerate() {
        let mut bytes = read(families.envelope, &key::of_id(id.local));
        match place {
            0 => *bytes.last_mut().expect("a record has bytes") ^= 1,
            1 => bytes = OTHER_VERSION.to_vec(),
            _ => bytes.truncate(9),
        }
        partition
            .db()
            .put_cf(families.envelope, key::of_id(id.local), &bytes)
            .expect("it is written");
        scene.ledger.note(*mail, MailState::Damaged);
        planted.push(("envelope", *id, bytes));
        planted.push(("body", *id, without_header(&mail.body()).to_vec()));
    }
    drop(spool);

    let server = scene.start();
    for (family, id, bytes) in &planted {
        let name =
            format!("p{:02}-{family}-{:016x}.rec", id.local.partition().0, id.local.as_u64());
        let kept = fs::read(scene.spool.join("quarantine").join(&name));
        assert_eq!(kept.ok().as_ref(), Some(bytes), "{name} of {:?}", quarantined(&scene));
    }
    let log = server.log_brief();
    assert!(log.contains("\"record\":\"quarantined\""), "{log}");
    let stats = String::from_utf8(server.queue(&["stats", "--json"]).stdout).expect("text");
    let stats: serde_json::Value = serde_json::from_str(&stats).expect("JSON");
    assert!(stats["in_quarantine"].as_u64() >= Some(planted.len() as u64), "{stats}");
    let mut client = scene.client(&server);
    scene.send_until(&mut client, "250");
    drop(client);
    let audit = scene.stop_and_audit(server, "damaged records");
    assert_eq!(audit.recovered, audit.acknowledged - damaged.len());
}

/// Changes one byte in the middle of a file.
fn flip(path: &Path, place: usize) {
    let mut bytes = fs::read(path).expect("it can be read");
    bytes[place] ^= 0x55;
    fs::write(path, bytes).expect("it can be written");
}

/// The largest file of the partition with that ending.
fn largest(scene: &Scene, ending: &str) -> PathBuf {
    let entries = fs::read_dir(scene.spool.join("p00")).expect("the partition has a folder");
    let files = entries.map(|entry| entry.expect("it can be read").path());
    let files = files.filter(|path| path.extension().is_some_and(|end| end == ending));
    let size = |path: &PathBuf| fs::metadata(path).map_or(0, |found| found.len());
    files.max_by_key(size).unwrap_or_else(|| panic!("there is a file *.{ending}"))
}

#[test]
fn a_flipped_bit_in_the_log_costs_what_it_hit_and_no_more() {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let (scene, sent) = stopped_spool(folder.path(), 60);
    let log = largest(&scene, "log");
    let bytes = fs::read(&log).expect("it can be read");
    // In the body of one message, found by its own bytes.
    let (victim, _) = sent[sent.len() / 2];
    let own = format!("\r\n{:016x}", victim.number);
    let place = bytes.windows(18).position(|part| part == own.as_bytes());
    let place = place.expect("all of the mail is still in the log");
    flip(&log, place + 20);
    let damaged = fs::read(&log).expect("it can be read");

    let server = scene.start();
    let copies: Vec<PathBuf> =
        quarantined(&scene).into_iter().filter(|path| path.is_dir()).collect();
    assert_eq!(copies.len(), 1, "the log is kept: {copies:?}");
    let copy = copies[0].join(log.file_name().expect("a file has a name"));
    assert!(fs::read(copy).expect("it can be read") == damaged, "every byte of it");
    let mut client = scene.client(&server);
    scene.send_until(&mut client, "250");
    drop(client);
    drop(server);
    let audit = scene.ledger.audit_stopped(&scene.spool, Reading::Everything);
    println!("flipped bit in the log: {audit}");
    // The batch that was hit, and at most the rest of its block of 32 KB.
    assert!((1..=40).contains(&audit.lost.len()), "{audit}: {:?}", audit.lost);
    assert!(audit.lost.iter().any(|lost| lost.contains(&format!("number: {},", victim.number))));
    assert_eq!((audit.unknown, audit.premature), (vec![], vec![]));
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).expect("it is not there yet");
    let mode = fs::metadata(from).expect("it is there").permissions();
    fs::set_permissions(to, mode).expect("it is ours");
    for entry in fs::read_dir(from).expect("it can be read") {
        let entry = entry.expect("it can be read");
        // Room, and no mail.
        if entry.file_name() == "reserve" {
            continue;
        }
        let (path, copy) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().expect("it has a type");
        if kind.is_dir() {
            copy_folder(&path, &copy);
        } else if kind.is_file() {
            fs::copy(&path, &copy).expect("there is room");
        }
    }
}

#[test]
fn wherever_the_log_is_damaged_the_rest_is_there() {
    const PLACES: usize = 24;
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let (scene, sent) = stopped_spool(folder.path(), 60);
    let log = largest(&scene, "log");
    let size = fs::metadata(&log).expect("it is there").len() as usize;
    for number in 1..=PLACES {
        let place = size * number / (PLACES + 1);
        let copies = tempfile::tempdir().expect("there is a place for temporary files");
        let copy = copies.path().join("spool");
        copy_folder(&scene.spool, &copy);
        flip(&copy.join("p00").join(log.file_name().expect("a file has a name")), place);
        let spool = open(&copy, Access::Serve);
        let found = &spool.recovered()[0];
        let least = sent.len() as u64 - 20;
        assert!(found.messages >= least, "byte {place} of {size}: {:#?}", found.notices);
        assert!(!found.notices.is_empty(), "byte {place} of {size}: it is told");
    }
}

#[test]
fn a_flipped_bit_in_a_table_or_blob_never_stops_the_start() {
    for ending in ["sst", "blob"] {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let (scene, sent) = stopped_spool(folder.path(), 60);
        let spool = open(&scene.spool, Access::Serve);
        for family in FAMILIES {
            let db = spool.partitions()[0].db();
            let family = db.cf_handle(family).expect("opened with every family");
            db.flush_cf(family).expect("there is room");
        }
        drop(spool);
        let file = largest(&scene, ending);
        let size = fs::metadata(&file).expect("it is there").len() as usize;
        flip(&file, if ending == "sst" { size / 4 } else { size / 2 });
        let mut server = scene.start();
        let mut client = scene.client(&server);
        scene.send_until(&mut client, "250");
        drop(client);
        server.kill();
        let log = server.whole_log();
        let audit = scene.ledger.audit_stopped(&scene.spool, Reading::Everything);
        println!("flipped bit in {ending} of {size} bytes: {audit}");
        let harmed = audit.lost.len() + audit.unknown.len();
        assert!(harmed <= sent.len(), "{ending}: {audit}");
        assert!(audit.recovered > 0, "{ending}: new mail is there: {audit}");
        let told = log.contains("\"record\":\"quarantined\"")
            || log.contains("\"record\":\"store_damaged\"");
        // A flip in a table may hit what is read by nobody; one in a body never does.
        assert!(harmed > 0 || ending == "sst", "{ending}: {audit}");
        assert!(harmed == 0 || told, "{ending}: {audit}, and it says\n{log}");
    }
}
