//! Power cuts: everything that was not flushed to the disk is thrown away, and still each
//! acknowledged message is there.
//!
//! The disk is real ext4 on nbdkit's cache (`support::disk`); `kill -9` of nbdkit is the cut. The
//! second test switches the sync off and has to lose mail: it proves that the first could fail.
//! `RINGPOST_TEST_POWER_CUTS` sets the number of cuts.

use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::SystemTime;

use ringpost::queue::Access;

use crate::support::Server;
use crate::support::Setup;
use crate::support::disk::FailingDisk;
use crate::support::disk::Filter;
use crate::support::events;
use crate::support::is_root;
use crate::support::ledger::Audit;
use crate::support::ledger::Ledger;
use crate::support::ledger::Reading;
use crate::support::ledger::open;
use crate::support::load::Load;
use crate::support::load::Plan;
use crate::support::load::Random;
use crate::support::load::Shape;
use crate::support::number_from;

const CUTS: u64 = 6;
/// So many messages are promised and not deleted shortly before a cut.
const MAIL_TO_LOSE: usize = 50;

const CONFIG: &str = "[queue]\nmemory = \"16MiB\"\nmin_free_space = \"1MB\"\n";

fn disk() -> Option<FailingDisk> {
    if !is_root("cutting the power") {
        return None;
    }
    FailingDisk::new(Filter::Cache)
}

/// Serves under load from the disk, cuts its power, and looks at what is left.
fn cut_under_load(
    disk: &mut FailingDisk,
    (ledger, config, shapes): (&Arc<Ledger>, &str, &'static [Shape]),
    random: &mut Random,
) -> Audit {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let spool = disk.mount_point().join("spool");
    let setup = Setup { config: config.to_owned(), spool: Some(spool.clone()), ..Setup::default() };
    disk.power_on();
    let mut server = Server::start(folder.path(), &setup);
    let plan = Plan {
        clients: 5,
        seed: random.below(usize::MAX) as u64,
        shapes,
        remover: Some(folder.path().to_owned()),
    };
    let load = Load::start(server.address(), ledger, plan);
    thread::sleep(Duration::from_millis(200 + random.below(800) as u64));
    // What is deleted meanwhile is no mail to lose.
    load.await_kept(MAIL_TO_LOSE);
    disk.cut();
    server.kill();
    load.stop();
    disk.clear_away();
    disk.power_on();
    let audit = ledger.audit_stopped(&spool, Reading::Everything);
    if config == CONFIG {
        events::assert_agree_in(&spool, "after the cut");
    }
    disk.power_off().expect("nobody has a file open");
    audit
}

fn random() -> Random {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    println!("seed {}", now.as_millis());
    Random::new(now.as_millis() as u64)
}

#[test]
fn acknowledged_mail_survives_power_cuts() {
    let Some(mut disk) = disk() else { return };
    let (ledger, mut random) = (Arc::<Ledger>::default(), random());
    for cut in 0..number_from("RINGPOST_TEST_POWER_CUTS", || CUTS) {
        let audit = cut_under_load(&mut disk, (&ledger, CONFIG, Shape::ALL), &mut random);
        println!("cut {cut}: {audit}");
        audit.assert_sound(&format!("cut {cut}"));
        assert!(audit.recovered > MAIL_TO_LOSE / 2, "cut {cut}: there was mail to lose");
    }
}

#[test]
fn without_sync_a_power_cut_loses_mail() {
    let Some(mut disk) = disk() else { return };
    let (ledger, mut random) = (Arc::<Ledger>::default(), random());
    // Only small mail, and room for all of it: no full memtable brings the log to the disk.
    let config = "[queue]\nsync = false\nmin_free_space = \"1MB\"\n";
    // The empty spool is made durable first; it is the mail that must be missing.
    disk.power_on();
    drop(open(&disk.mount_point().join("spool"), Access::Serve));
    disk.power_off().expect("nobody has a file open");
    let audit = cut_under_load(&mut disk, (&ledger, config, &[Shape::Small]), &mut random);
    println!("without sync: {audit}");
    assert!(!audit.lost.is_empty(), "this rig would not notice a missing sync: {audit}");
    assert_eq!(audit.unknown, [""; 0], "what is there is whole");
}
